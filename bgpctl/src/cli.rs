//! The words of the command line.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

use crate::pki;

/// Where a speaker listens when nobody says otherwise.
pub(crate) const SPEAKER_SOCKET: &str = "/run/routeshare/speaker.sock";
/// Where the controller listens for people on its own machine.
pub(crate) const CONTROLLER_SOCKET: &str = "unix:/run/routeshare/controller.sock";

/// Over the options that say how answers look: without it they would stand under the heading before.
const ANSWERS: &str = "Answers";

/// Ask speakers and the controller, and tell them what to do
///
/// Without --node or --all the speaker of this machine is asked, over its Unix socket. With them, or
/// with --controller, the controller is asked, which reaches every speaker. Where there is neither a
/// speaker nor a controller on this machine, but a kubeconfig, the controller of that cluster is asked;
/// so it is with --kubeconfig, --context or --namespace, and as kubectl plugin (`kubectl bgp show
/// nodes`, when a link named kubectl-bgp to this program is in PATH).
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, subcommand_required = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) target: Target,

    /// How answers look
    #[arg(short, long, value_enum, default_value_t, global = true, help_heading = ANSWERS)]
    pub(crate) output: Format,

    /// Colours; `auto` means on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t, global = true, help_heading = ANSWERS)]
    pub(crate) color: Color,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Whom to ask.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Whom to ask")]
pub(crate) struct Target {
    /// The speaker's Unix socket [default: /run/routeshare/speaker.sock]
    #[arg(long, global = true, value_name = "PATH", env = "ROUTESHARE_SOCKET",
          value_hint = ValueHint::FilePath)]
    pub(crate) socket: Option<PathBuf>,

    /// The controller: https://HOST:7443, http://127.0.0.1:PORT or unix:PATH; https together with
    /// --kubeconfig, --context or --namespace: authority and token come from that cluster
    /// [default: unix:/run/routeshare/controller.sock]
    #[arg(long, global = true, value_name = "URL", env = "ROUTESHARE_CONTROLLER")]
    pub(crate) controller: Option<String>,

    /// Ask the speaker of this node, through the controller; may be given again
    #[arg(short, long, global = true, value_name = "NAME", action = ArgAction::Append,
          value_delimiter = ',', conflicts_with = "all")]
    pub(crate) node: Vec<String>,

    /// Ask the speakers of all nodes, through the controller
    #[arg(short, long, global = true)]
    pub(crate) all: bool,

    /// The authority's certificate, for a controller reached by https
    #[arg(long, global = true, value_name = "FILE", env = "ROUTESHARE_CA",
          value_hint = ValueHint::FilePath)]
    pub(crate) ca: Option<PathBuf>,

    /// Your own certificate (`bgpctl pki operator`)
    #[arg(long, global = true, value_name = "FILE", env = "ROUTESHARE_CERT", requires = "key",
          value_hint = ValueHint::FilePath)]
    pub(crate) cert: Option<PathBuf>,

    /// Its key
    #[arg(long, global = true, value_name = "FILE", env = "ROUTESHARE_KEY", requires = "cert",
          value_hint = ValueHint::FilePath)]
    pub(crate) key: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) cluster: InCluster,
}

/// A controller that runs in Kubernetes.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "A controller in Kubernetes")]
pub(crate) struct InCluster {
    /// The kubeconfig [default: as kubectl has it: $KUBECONFIG, ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// Its context [default: the current one]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,

    /// The namespace the controller runs in [default: routeshare]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,

    /// Connect to the leader's own address, not through the API server: from inside the cluster's
    /// network, and without the right to forward ports
    #[arg(long, global = true, conflicts_with_all = ["controller", "socket"])]
    pub(crate) direct: bool,
}

impl InCluster {
    /// Whether it was asked for.
    pub(crate) fn is_named(&self) -> bool {
        self.kubeconfig.is_some()
            || self.context.is_some()
            || self.namespace.is_some()
            || self.direct
    }
}

/// How answers look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    #[default]
    Table,
    /// More columns
    Wide,
    /// One JSON array, an element a line; with --watch an object a line
    Json,
    /// One YAML list; with --watch a document an element
    Yaml,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show nodes, subnets, peers, pods, routes, configuration or status
    #[command(subcommand)]
    Show(Show),
    /// Say why a prefix is reached the way it is, or not at all
    #[command(alias = "why")]
    Explain(Explain),
    /// Close a session and open it again, or (--soft) only exchange the routes again
    Reset(Reset),
    /// Close a session and keep it closed
    Shutdown(Shutdown),
    /// Open a session that was shut down
    Enable(Enable),
    /// Check resource files without a controller
    Check(Check),
    /// Make an authority, and certificates for the controller, nodes and operators
    #[command(subcommand)]
    Pki(pki::Command),
    /// Print a completion script: source <(bgpctl completion bash)
    Completion {
        /// For which shell
        #[arg(value_enum)]
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Show {
    /// Nodes, their subnets and how their sessions fare (asks the controller)
    #[command(visible_alias = "node")]
    Nodes,
    /// Which node holds which subnet, and since when (asks the controller)
    #[command(visible_alias = "subnet")]
    Subnets,
    /// Sessions; with a name everything about one of them
    #[command(visible_alias = "peer", aliases = ["neighbor", "neighbors"])]
    Peers(Peers),
    /// BFD sessions beside peers
    Bfd(Bfd),
    /// Containers, the networks they are attached to, and their addresses there
    #[command(visible_alias = "pod")]
    Pods(Pods),
    /// Routes
    #[command(visible_alias = "route")]
    Routes(Routes),
    /// The configuration in force; with --node the one the controller has for the node
    Config,
    /// How the speaker fares; with --controller how the controller does
    Status,
}

#[derive(Debug, Args)]
pub(crate) struct Peers {
    /// A peer's name or address
    pub(crate) peer: Option<String>,
    /// Stay, and print every change of a session
    #[arg(short, long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Bfd {
    /// A peer's name or address
    pub(crate) peer: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Pods {
    /// The beginning of a container's id, a name, an alias or an address
    pub(crate) pod: Option<String>,
    /// Only of this network
    #[arg(long, value_name = "NAME")]
    pub(crate) network: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Routes {
    /// A prefix, or an address for its longest match
    pub(crate) destination: Option<String>,
    /// As received from this peer, before import policy (Adj-RIB-In)
    #[arg(long, value_name = "PEER", conflicts_with_all = ["advertised", "all_paths"])]
    pub(crate) received: Option<String>,
    /// As sent to this peer, after export policy (Adj-RIB-Out)
    #[arg(long, value_name = "PEER", conflicts_with = "all_paths")]
    pub(crate) advertised: Option<String>,
    /// Every path, not only those in use
    #[arg(long)]
    pub(crate) all_paths: bool,
    /// The prefix and all within it
    #[arg(long, requires = "destination")]
    pub(crate) longer_prefixes: bool,
    /// Only this family
    #[arg(long, value_enum, ignore_case = true)]
    pub(crate) family: Option<FamilyArgument>,
    /// Stay, and print every change of a best route
    #[arg(short, long, conflicts_with_all = ["received", "advertised", "all_paths"])]
    pub(crate) watch: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FamilyArgument {
    /// IPv4 unicast
    #[value(name = "ipv4", aliases = ["4", "inet"])]
    Ipv4,
    /// IPv6 unicast
    #[value(name = "ipv6", aliases = ["6", "inet6"])]
    Ipv6,
}

impl FamilyArgument {
    /// As the speaker's service calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            FamilyArgument::Ipv4 => "IPv4",
            FamilyArgument::Ipv6 => "IPv6",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// A prefix, or an address for its longest match
    pub(crate) destination: String,
}

#[derive(Debug, Args)]
pub(crate) struct Reset {
    /// The peer's name or address
    pub(crate) peer: String,
    /// The session stays; only ask for its routes and send ours again
    #[arg(long)]
    pub(crate) soft: bool,
    /// A text for the people at the other end
    #[arg(
        short,
        long,
        default_value = "",
        hide_default_value = true,
        conflicts_with = "soft",
        value_parser = message
    )]
    pub(crate) message: String,
}

#[derive(Debug, Args)]
pub(crate) struct Shutdown {
    /// The peer's name or address
    pub(crate) peer: String,
    /// A text for the people at the other end
    #[arg(short, long, default_value = "", hide_default_value = true, value_parser = message)]
    pub(crate) message: String,
}

/// A NOTIFICATION carries no longer text (RFC 9003).
fn message(text: &str) -> Result<String, String> {
    const MOST: usize = 255;
    match text.len() {
        0..=MOST => Ok(text.to_owned()),
        long => Err(format!(
            "it has {long} octets; a NOTIFICATION carries at most {MOST}"
        )),
    }
}

#[derive(Debug, Args)]
pub(crate) struct Enable {
    /// The peer's name or address
    pub(crate) peer: String,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// YAML files, or directories of them
    #[arg(required = true, value_name = "FILE|DIR", value_hint = ValueHint::AnyPath)]
    pub(crate) paths: Vec<PathBuf>,
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_option_stands_under_the_heading_of_another_topic() {
        let mut command = Cli::command();
        command.build();
        let heading = |name: &str| {
            let mut options = command.get_arguments();
            let option = options.find(|it| it.get_long() == Some(name)).unwrap();
            option.get_help_heading().unwrap_or_default().to_owned()
        };
        assert_eq!(heading("kubeconfig"), "A controller in Kubernetes");
        assert_eq!(heading("output"), ANSWERS);
        assert_eq!(heading("color"), ANSWERS);
    }

    #[test]
    fn a_table_of_one_peer_is_one_direction_only() {
        let both = [
            "bgpctl",
            "show",
            "routes",
            "--received",
            "a",
            "--advertised",
            "b",
        ];
        assert!(Cli::try_parse_from(both).is_err());
    }

    #[test]
    fn a_message_that_a_notification_cannot_carry_is_refused() {
        let given = |text: String| Cli::try_parse_from(["bgpctl", "shutdown", "tor", "-m", &text]);
        assert!(given("x".repeat(255)).is_ok());
        let error = given("ü".repeat(128)).unwrap_err().to_string();
        assert!(error.contains("it has 256 octets"), "{error}");
    }

    /// Commands in the texts of this repository: between backticks, or behind a prompt.
    fn commands_told() -> Vec<(PathBuf, String)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut folders: Vec<PathBuf> = [
            "bfd",
            "bgpctl",
            "cni",
            "controller",
            "crates",
            "deploy",
            "docs",
        ]
        .iter()
        .chain(&["examples", "speaker", "xtask"])
        .map(|folder| root.join(folder))
        .collect();
        let mut files = vec![root.join("README.md")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let extension = path
                    .extension()
                    .and_then(|it| it.to_str())
                    .unwrap_or_default();
                match path.is_dir() {
                    true => folders.push(path),
                    false if ["rs", "md", "yaml", "txt"].contains(&extension) => files.push(path),
                    false => {}
                }
            }
        }
        let mut told = Vec::new();
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            for part in text.split('`').skip(1).step_by(2) {
                told.push((file.clone(), part.to_owned()));
            }
            let prompts = text.lines().filter_map(|line| {
                let line = line.trim_start();
                line.strip_prefix("$ ").or_else(|| line.strip_prefix("# "))
            });
            told.extend(prompts.map(|line| (file.clone(), line.to_owned())));
        }
        // What has braces is made when it is told.
        told.retain(|(_, line)| line.starts_with("bgpctl ") && !line.contains('{'));
        told
    }

    #[test]
    fn every_command_that_docs_and_messages_name_is_one() {
        let told = commands_told();
        assert!(told.len() > 60, "only {} were found", told.len());
        for (file, line) in told {
            let line = line.split(" #").next().unwrap_or_default();
            // Where a line of a comment or a string goes on, and what is left out.
            let breaks = ["\\", "//", "///", "//!", "…"];
            let words = line.split_whitespace();
            let words = words.filter(|word| !breaks.contains(word));
            let Err(error) = Cli::try_parse_from(words) else {
                continue;
            };
            // Placeholders, and what is left out, are as they are.
            let unknown = matches!(
                error.kind(),
                ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument
            );
            assert!(!unknown, "{}: {line}: {error}", file.display());
        }
    }

    #[test]
    fn nodes_may_be_given_with_commas() {
        let cli = Cli::try_parse_from(["bgpctl", "show", "peers", "-n", "a1,a2", "-n", "b1"]);
        assert_eq!(cli.unwrap().target.node, ["a1", "a2", "b1"]);
    }
}
