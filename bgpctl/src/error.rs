//! Why a command could not be carried out, and what to do about it.

use std::io;
use std::path::PathBuf;

use crate::kubernetes::KubernetesError;
use crate::pki::PkiError;

/// Why a command could not be carried out. The text says what was attempted on what;
/// [`help`](Failure::help) says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("cannot start")]
    Start(#[source] io::Error),
    /// The answer could not be printed.
    #[error("cannot print")]
    Print(#[from] io::Error),
    #[error("cannot encode the answer: {0}")]
    Encode(String),
    #[error("no {who} answers on {}", path.display())]
    Socket {
        who: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("--controller {url}: {reason}")]
    Url { url: String, reason: String },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot reach the controller at {url}")]
    Connect {
        url: String,
        source: tonic::transport::Error,
    },
    /// It answered, and said no.
    #[error("{who}: {}", message(status))]
    Refused {
        who: String,
        status: Box<tonic::Status>,
    },
    #[error("`bgpctl {command}` is for one node's speaker at a time")]
    OneNode { command: &'static str },
    #[error("the answer makes no sense: {0}")]
    Answer(String),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
}

/// What the other side said; the code where it said nothing.
fn message(status: &tonic::Status) -> String {
    match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    }
}

impl Failure {
    /// What to do, in a line or two; empty when the error says it all.
    pub(crate) fn help(&self) -> String {
        match self {
            Failure::Socket { who, source, .. } => socket_help(who, source.kind()),
            Failure::Url { .. } => {
                "say https://HOST:7443 (with --ca, --cert and --key), http://127.0.0.1:PORT or unix:PATH"
                    .into()
            }
            Failure::Connect { url, .. } => connect_help(url),
            Failure::OneNode { .. } => "name it with --node NAME".into(),
            Failure::Refused { status, .. } => refused_help(status).into(),
            Failure::Kubernetes(error) => error.help(),
            Failure::Answer(_) => {
                "bgpctl and the program it asked may be of different versions: compare \
                 `bgpctl --version` with `bgpctl show status`"
                    .into()
            }
            _ => String::new(),
        }
    }
}

fn socket_help(who: &str, kind: io::ErrorKind) -> String {
    if kind == io::ErrorKind::PermissionDenied {
        return "only its owner may ask it: try again with sudo".into();
    }
    let (program, option, other) = match who {
        "speaker" => (
            "routeshare-speaker",
            "--socket PATH",
            "\na speaker elsewhere is asked through the controller: --node NAME or --all",
        ),
        _ => (
            "routeshare-controller",
            "--controller URL",
            "\nwithout a controller ask a speaker: `bgpctl show peers`, `bgpctl show routes`",
        ),
    };
    format!("is {program} running here? If its socket is elsewhere, say {option}{other}")
}

fn connect_help(url: &str) -> String {
    let mut help = "is it running, and can this machine reach that address and port?".to_owned();
    if url.starts_with("https:") {
        help += "\nits certificate must be of the authority given by --ca and name this host \
                 (`bgpctl pki controller DIR --dns NAME --ip ADDRESS`)";
    } else {
        help += "\na controller that wants certificates is reached by https://";
    }
    help
}

fn refused_help(status: &tonic::Status) -> &'static str {
    match status.code() {
        // What tonic makes of an answer in HTTP that is none in gRPC.
        _ if status.message().contains("grpc-status header missing") => {
            "what answers there is no controller: another program's port, or one for metrics? A controller is \
             asked at the port of its --listen, such as https://HOST:7443"
        }
        tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => {
            "use an operator's certificate (`bgpctl pki operator DIR NAME`) by --cert and --key; in Kubernetes a \
             kubeconfig with which tokens of service account routeshare-operator may be made"
        }
        tonic::Code::Unimplemented => {
            "it does not know this question; is it a controller asked for what only a speaker knows, \
             or an older version?"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_socket_says_what_to_start_and_how_to_name_another() {
        let failure = Failure::Socket {
            who: "speaker",
            path: "/run/routeshare/speaker.sock".into(),
            source: io::ErrorKind::NotFound.into(),
        };
        assert_eq!(
            failure.to_string(),
            "no speaker answers on /run/routeshare/speaker.sock"
        );
        let help = failure.help();
        assert!(help.contains("routeshare-speaker running"), "{help}");
        assert!(help.contains("--socket PATH"), "{help}");
    }

    #[test]
    fn an_answer_of_another_program_is_told_from_one_of_an_older_controller() {
        let missing = "grpc-status header missing, mapped from HTTP status code 404";
        let help = refused_help(&tonic::Status::unimplemented(missing));
        assert!(help.contains("no controller"), "{help}");
        let help = refused_help(&tonic::Status::unimplemented(""));
        assert!(help.contains("older version"), "{help}");
    }

    #[test]
    fn a_forbidden_socket_says_sudo() {
        assert!(socket_help("speaker", io::ErrorKind::PermissionDenied).contains("sudo"));
    }
}
