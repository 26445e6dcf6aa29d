//! The compose file of a new consortium: all members on one machine, as containers.

use super::Plan;
use crate::dev::Ports;

impl Plan {
    /// Works with docker-compose 1.29 and Compose v2. The containers run as the user who owns the folder, since the keys are
    /// readable for nobody else.
    pub(super) fn compose_file(&self, uid: u32, gid: u32) -> String {
        let mut out = format!(
            r#"# All members on one machine, as containers; for trials. Needs the image quorate:latest (make image).
#   docker-compose up -d        # or: docker compose up -d
# Ports are published on 127.0.0.1 only. A member of a real consortium runs on its own machine with its own key.
version: "3.8"

x-node: &node
  image: ${{QUORATE_IMAGE:-quorate:latest}}
  # The owner of this folder: nobody else may read the keys.
  user: "{uid}:{gid}"
  networks: [members]
  restart: unless-stopped
  stop_grace_period: 15s
  read_only: true
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  healthcheck:
    # There is no shell in the image: the binary asks itself.
    test: ["CMD", "/quorate", "health", "--url", "http://127.0.0.1:9545/health"]
    interval: 2s
    timeout: 5s
    retries: 5
    start_period: 30s

services:
"#
        );
        for (i, node) in self.nodes.iter().enumerate() {
            let name = format!("node{}", i + 1);
            let Ports {
                rpc, grpc, metrics, ..
            } = node.ports;
            out.push_str(&format!(
                r#"  {name}:
    <<: *node
    hostname: {name}
    command: [node, --config, /network/{name}/quorate.toml]
    environment:
      # Open inside the private network; what leaves it is under `ports`.
      QUORATE_RPC_LISTEN: 0.0.0.0:8545
      QUORATE_RPC_ALLOWED_HOSTS: localhost,{name}
      QUORATE_GRPC_LISTEN: 0.0.0.0:50051
      QUORATE_METRICS_LISTEN: 0.0.0.0:9545
    volumes:
      - ./genesis.json:/network/genesis.json:ro
      - ./{name}:/network/{name}
    ports:
      - 127.0.0.1:{rpc}:8545
      - 127.0.0.1:{grpc}:50051
      - 127.0.0.1:{metrics}:9545

"#
            ));
        }
        out.push_str("networks:\n  members:\n    driver: bridge\n");
        out
    }
}
