{{/* Labels of every object. */}}
{{- define "routeshare.labels" -}}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* What pods of a component are chosen by: (dict "component" NAME) */}}
{{- define "routeshare.selector" -}}
app.kubernetes.io/name: routeshare
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* An image by digest, where one is given, or tag: (dict "root" $ "component" NAME) */}}
{{- define "routeshare.image" -}}
{{- $images := .root.Values.images -}}
{{- $digest := get $images.digests .component -}}
{{- $name := printf "%s/routeshare-%s" $images.registry .component -}}
{{- if $digest -}}
{{ $name }}@{{ $digest }}
{{- else -}}
{{ $name }}:{{ $images.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The host for a probe of a metrics address, and its port. */}}
{{- define "routeshare.probe" -}}
{{- $address := .metrics -}}
{{- $port := regexFind "[0-9]+$" $address -}}
{{- $host := trimSuffix (printf ":%s" $port) $address | trimPrefix "[" | trimSuffix "]" -}}
{{- if has $host (list "0.0.0.0" "::") -}}
{{- $host = "127.0.0.1" -}}
{{- end -}}
{host: {{ $host | quote }}, port: {{ $port }}, path: {{ .path }}}
{{- end }}

{{- define "routeshare.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}
