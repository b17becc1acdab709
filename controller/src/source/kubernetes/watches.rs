//! The watches, as one stream of what they say.

use std::pin::Pin;
use std::time::Duration;

use crd::{Kind, WRITTEN_BY_USERS, Written};
use futures::stream::{BoxStream, select_all};
use futures::{Stream, StreamExt as _};
use kube::runtime::utils::StreamBackoff;
use kube::runtime::watcher::{self, Config, Event};
use kube::{Api, Client};
use tracing::{info, warn};

use super::KubeNode;
use crate::pauses::Pauses;

/// A watch is begun anew after so many seconds, and when nothing was heard for a little longer: a
/// connection that has died unnoticed costs no more than this. The API server says something about
/// once a minute.
const LONGEST_WATCH: u32 = 120;
/// Pauses between attempts grow from here …
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// … to here.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What a watch says.
pub(super) enum Notice {
    Node(Event<KubeNode>),
    Object(Kind, Event<Written>),
    /// The API server does not know the kind.
    Undefined(Kind),
}

/// Everything that the watches say, for ever.
pub(super) fn all(client: &Client) -> impl Stream<Item = Notice> + use<> {
    let nodes = follow(Api::<KubeNode>::all(client.clone()), "nodes");
    let nodes = nodes.filter_map(|event| std::future::ready(event.ok().map(Notice::Node)));
    let mut streams: Vec<BoxStream<'static, Notice>> = vec![nodes.boxed()];
    for kind in WRITTEN_BY_USERS {
        let resource = kind.api_resource();
        let events = follow(
            Api::<Written>::all_with(client.clone(), &resource),
            kind.plural(),
        );
        let notices = events.filter_map(move |event| {
            let notice = match event {
                Ok(event) => Some(Notice::Object(kind, event)),
                Err(error) => is_undefined(&error).then_some(Notice::Undefined(kind)),
            };
            std::future::ready(notice)
        });
        streams.push(notices.boxed());
    }
    select_all(streams)
}

type Events<K> = Pin<Box<dyn Stream<Item = Result<Event<K>, watcher::Error>> + Send>>;

/// One watch; that it fails, and that it goes on, is told once.
fn follow<K>(api: Api<K>, what: &'static str) -> Events<K>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    // Lists are asked for as they are now, not as some cache remembers them: a node that was made
    // a moment ago must not be missing when another controller takes over.
    let config = Config::default().timeout(LONGEST_WATCH);
    let pauses = Pauses::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut failing = false;
    let events = StreamBackoff::new(watcher::watcher(api, config), pauses);
    Box::pin(events.inspect(move |event| match event {
        Ok(Event::Init) => {} // a list is only asked for
        Ok(_) => {
            if std::mem::take(&mut failing) {
                info!(what, "watching again");
            }
        }
        Err(error) => {
            if !std::mem::replace(&mut failing, true) {
                let error = error as &dyn std::error::Error;
                warn!(error, what, "cannot watch; what is known stays in force");
            }
        }
    }))
}

fn is_undefined(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}
