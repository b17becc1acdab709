//! What becomes of the resources in force when something happens to the files.

use super::*;

const FABRIC: &str = "\
apiVersion: routeshare.io/v1alpha1
kind: Fabric
metadata: {name: fabric}
spec: {asn: {value: 64512}}
";
const POOL: &str = "\
apiVersion: routeshare.io/v1alpha1
kind: Pool
metadata: {name: pods}
spec: {prefixes: [10.64.0.0/16]}
";
const POLICY: &str = "\
apiVersion: routeshare.io/v1alpha1
kind: RoutePolicy
metadata: {name: all}
spec: {rules: [{name: all, action: Accept}]}
";

fn nodes(names: &[&str]) -> String {
    let node = |name: &&str| {
        format!(
            "apiVersion: routeshare.io/v1alpha1\nkind: Node\nmetadata: {{name: {name}}}\nspec: \
             {{addresses: [192.0.2.{}]}}\n",
            name.bytes().last().unwrap()
        )
    };
    names.iter().map(node).collect::<Vec<_>>().join("---\n")
}

struct Bench {
    dir: tempfile::TempDir,
    files: Files,
}

impl Bench {
    /// Five nodes in two files, one pool, one fabric; good and in force.
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("fabric.yaml", FABRIC);
        write("pool.yml", POOL);
        write("nodes-a.yaml", &nodes(&["a1", "a2", "a3"]));
        write("nodes-b.yaml", &nodes(&["b4", "b5"]));
        let files = Files::new(dir.path().to_owned(), None);
        let bench = Bench { dir, files };
        assert_eq!(bench.refused(), "");
        assert_eq!(bench.in_force(), ["a1", "a2", "a3", "b4", "b5"]);
        bench
    }

    fn write(&mut self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.dir.path().join(name), bytes).unwrap();
        self.files.reload(false);
    }

    fn delete(&mut self, name: &str) {
        fs::remove_file(self.dir.path().join(name)).unwrap();
        self.files.reload(false);
    }

    fn in_force(&self) -> Vec<String> {
        let state = self.files.state.borrow();
        state
            .in_force
            .iter()
            .flat_map(|loaded| loaded.resources.nodes.keys().cloned())
            .collect()
    }

    fn refused(&self) -> String {
        self.files.state.borrow().refused.join("\n")
    }

    /// What was there stays in force, and the reason names `what`.
    #[track_caller]
    fn assert_kept(&self, what: &str) {
        assert_eq!(self.in_force().len(), 5);
        let refused = self.refused();
        assert!(refused.contains(what), "`{refused}` does not say `{what}`");
    }
}

#[test]
fn a_half_written_file_is_refused_and_the_whole_one_accepted() {
    let mut bench = Bench::new();
    let whole = nodes(&["a1", "a2", "a3", "a6"]);
    for length in 0..whole.len() {
        bench.write("nodes-a.yaml", &whole[..length]);
        let nodes = bench.in_force().len();
        assert!(
            nodes >= 3,
            "after {length} bytes only {nodes} nodes are left"
        );
    }
    bench.write("nodes-a.yaml", &whole);
    assert_eq!(bench.refused(), "");
    assert_eq!(bench.in_force(), ["a1", "a2", "a3", "a6", "b4", "b5"]);
}

#[test]
fn an_emptied_file_is_refused() {
    for text in ["", "\n\n", "# nothing here\n---\n"] {
        let mut bench = Bench::new();
        bench.write("nodes-b.yaml", text);
        bench.assert_kept("nodes-b.yaml has become empty");
        bench.write("nodes-b.yaml", nodes(&["b4", "b5"]));
        assert_eq!(bench.refused(), "");
    }
}

#[test]
fn a_deleted_file_takes_nothing_but_nodes_with_it() {
    let mut bench = Bench::new();
    bench.write("policy.yaml", POLICY);
    bench.write("other.yaml", POLICY.replace("name: all}", "name: other}"));
    assert_eq!(bench.refused(), "");
    bench.delete("other.yaml");
    bench.assert_kept("other.yaml is gone, and with it RoutePolicy other would be removed");
    bench.write(
        "policy.yaml",
        format!(
            "{POLICY}---\n{}",
            POLICY.replace("name: all}", "name: other}")
        ),
    );
    assert_eq!(bench.refused(), "", "moved to another file");
    bench.delete("pool.yml");
    bench.assert_kept("pool.yml is gone");
    bench.write("pool.yml", POOL);
    bench.delete("fabric.yaml");
    bench.assert_kept("Fabric");
}

#[test]
fn nodes_are_removed_deliberately_but_not_most_of_them_at_once() {
    let mut bench = Bench::new();
    bench.delete("nodes-a.yaml");
    bench.assert_kept("3 of 5 nodes would be removed at once");
    bench.write("nodes-a.yaml", nodes(&["a1", "a2", "a3"]));
    bench.delete("nodes-b.yaml");
    assert_eq!(bench.refused(), "");
    assert_eq!(bench.in_force(), ["a1", "a2", "a3"]);
    bench.write("nodes-a.yaml", nodes(&["a1", "a2"]));
    bench.write("nodes-a.yaml", nodes(&["a2"]));
    assert_eq!(bench.in_force(), ["a2"]);
    bench.delete("nodes-a.yaml");
    assert_eq!(bench.in_force(), ["a2"]);
    assert!(bench.refused().contains("every Node would be removed"));
}

#[test]
fn what_looks_like_an_accident_is_accepted_when_it_is_confirmed_but_mistakes_never_are() {
    let mut bench = Bench::new();
    bench.delete("nodes-a.yaml");
    bench.files.reload(true);
    assert_eq!(bench.refused(), "");
    assert_eq!(bench.in_force(), ["b4", "b5"]);
    bench.write("pool.yml", "kind: Nonsense\n");
    bench.files.reload(true);
    assert_ne!(bench.refused(), "");
    assert_eq!(bench.in_force(), ["b4", "b5"]);
}

#[test]
fn an_unreadable_file_refuses_the_whole_set() {
    let mut bench = Bench::new();
    bench.write("nodes-a.yaml", b"kind: Node\xFF\xFE\n");
    bench.assert_kept("nodes-a.yaml: stream did not contain valid UTF-8");
    bench.delete("nodes-a.yaml");
    fs::create_dir(bench.dir.path().join("nodes-a.yaml")).unwrap();
    bench.files.reload(false);
    bench.assert_kept("nodes-a.yaml: it is not a file");
    fs::remove_dir(bench.dir.path().join("nodes-a.yaml")).unwrap();
    std::os::unix::fs::symlink("nowhere", bench.dir.path().join("nodes-a.yaml")).unwrap();
    bench.files.reload(false);
    bench.assert_kept("nodes-a.yaml: No such file");
}

#[test]
fn an_emptied_or_missing_directory_is_refused() {
    let mut bench = Bench::new();
    for file in ["fabric.yaml", "pool.yml", "nodes-a.yaml", "nodes-b.yaml"] {
        fs::remove_file(bench.dir.path().join(file)).unwrap();
    }
    bench.files.reload(false);
    bench.assert_kept("there are no resources");
    fs::remove_dir(bench.dir.path()).unwrap();
    bench.files.reload(false);
    bench.assert_kept("cannot read");
}

#[test]
fn a_refusal_is_said_once_and_taken_back_when_the_files_are_as_before() {
    let mut bench = Bench::new();
    bench.write("nodes-a.yaml", "kind: [");
    bench.files.reload(false);
    bench.files.reload(false);
    assert_eq!(bench.files.state.borrow().refusals, 1);
    bench.write("nodes-a.yaml", nodes(&["a1", "a2", "a3"]));
    assert_eq!(bench.refused(), "");
}

#[test]
fn other_files_hidden_files_and_directories_are_not_looked_at() {
    let mut bench = Bench::new();
    bench.write("README.md", "kind: [");
    bench.write(".nodes-a.yaml.swp.yaml", "kind: [");
    fs::create_dir(bench.dir.path().join("old")).unwrap();
    bench.write("old/nodes.yaml", "kind: [");
    assert_eq!(bench.refused(), "");
}

#[test]
fn the_last_good_set_of_an_earlier_run_is_in_force_until_the_files_are_good() {
    let mut bench = Bench::new();
    bench.write("nodes-a.yaml", "kind: [");
    let stored = bench.files.state.borrow().in_force.clone().unwrap();
    let again = Files::new(
        bench.dir.path().to_owned(),
        Some((stored.files.clone(), stored.at)),
    );
    bench.files = again;
    bench.assert_kept("nodes-a.yaml");
    assert_eq!(
        bench.files.state.borrow().in_force.as_ref().unwrap().at,
        stored.at
    );
}

#[tokio::test]
async fn a_change_of_the_directory_is_seen_without_being_told() {
    let bench = Bench::new();
    let mut states = bench.files.subscribe();
    let shutdown = CancellationToken::new();
    let (_confirm, confirmed) = mpsc::channel(1);
    let running = tokio::spawn(bench.files.run(confirmed, shutdown.clone()));
    fs::write(bench.dir.path().join("nodes-c.yaml"), nodes(&["c6"])).unwrap();
    let six = |state: &SourceState| {
        let loaded = state.in_force.as_ref();
        loaded.is_some_and(|loaded| loaded.resources.nodes.len() == 6)
    };
    tokio::time::timeout(Duration::from_secs(30), states.wait_for(six))
        .await
        .expect("the new node is seen")
        .unwrap();
    shutdown.cancel();
    running.await.unwrap();
}
