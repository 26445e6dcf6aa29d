//! Where a node listens for clients.

use std::net::SocketAddr;

use anyhow::anyhow;
use quorate_rpc::third_party::ThirdPartySocket;
use tokio::net::TcpListener;

use crate::config::NodeConfig;
use crate::exit::{Ended, Exit};

/// The listeners, bound before anything is opened: a port in use should be the first thing said.
pub(super) struct Listeners {
    pub(super) rpc: Option<TcpListener>,
    pub(super) grpc: Option<TcpListener>,
    pub(super) third_party: Option<TcpListener>,
    pub(super) socket: Option<ThirdPartySocket>,
    pub(super) monitor: TcpListener,
}

impl Listeners {
    pub(super) async fn bind(config: &NodeConfig) -> Result<Self, Ended> {
        let rpc = match config.rpc.enabled {
            true => Some(bind("rpc.listen", config.rpc.listen).await?),
            false => None,
        };
        let grpc = match config.grpc.enabled {
            true => Some(bind("grpc.listen", config.grpc.listen).await?),
            false => None,
        };
        let third_party = match config.third_party.enabled {
            true => Some(bind("third_party.listen", config.third_party.listen).await?),
            false => None,
        };
        let socket = match &config.third_party.socket {
            Some(path) if config.third_party.enabled => {
                let bound = ThirdPartySocket::bind(path).await;
                Some(bound.map_err(|e| Ended {
                    exit: Exit::Network,
                    error: anyhow!("third_party.socket: {e}"),
                })?)
            }
            _ => None,
        };
        Ok(Self {
            rpc,
            grpc,
            third_party,
            socket,
            monitor: bind("metrics.listen", config.metrics.listen).await?,
        })
    }
}

async fn bind(name: &'static str, address: SocketAddr) -> Result<TcpListener, Ended> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|e| Ended {
        exit: Exit::Network,
        error: anyhow!("{name}: cannot listen on {address}: {e}"),
    })
}
