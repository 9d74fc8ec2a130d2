//! What the stream's servers make of an acknowledgement. Owns how that is found and said; when a server syncs its files it
//! tells nobody.

use std::fmt;

use async_nats::jetstream::stream::Info;

/// Who keeps the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Durability {
    /// Servers that are to keep it.
    pub(super) servers: usize,
    /// Of these, servers that have all of it.
    pub(super) in_step: usize,
    /// Whether one of them leads.
    pub(super) has_leader: bool,
}

impl Durability {
    pub(super) fn of(info: &Info) -> Self {
        let in_step = |cluster: &async_nats::jetstream::stream::ClusterInfo| {
            let in_step = cluster
                .replicas
                .iter()
                .filter(|peer| peer.current && !peer.offline);
            1 + in_step.count()
        };
        let leads = |leader: &Option<String>| leader.as_ref().is_some_and(|leader| !leader.is_empty());
        Self {
            servers: info.config.num_replicas,
            in_step: info.cluster.as_ref().map_or(1, in_step),
            // A server by itself needs none.
            has_leader: info.cluster.as_ref().is_none_or(|cluster| leads(&cluster.leader)),
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { servers, in_step, .. } = self;
        if *servers == 1 {
            f.write_str("acknowledged by one NATS server, which is all that keeps it")?;
        } else {
            let majority = servers / 2 + 1;
            write!(
                f,
                "acknowledged by {majority} of {servers} NATS servers ({in_step} are in step)"
            )?;
        }
        f.write_str("; a power cut takes what they had not synced: see their sync_interval")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_many_servers_an_event_outlives() {
        let of = |servers, in_step| Durability {
            servers,
            in_step,
            has_leader: true,
        };
        assert!(
            of(1, 1)
                .to_string()
                .starts_with("acknowledged by one NATS server")
        );
        let three = of(3, 2).to_string();
        assert!(
            three.starts_with("acknowledged by 2 of 3 NATS servers (2 are in step)"),
            "{three}"
        );
    }
}
