//! stub
use clap::Args;
/// x
#[derive(Debug, Args)]
pub struct BenchArgs {}
/// x
pub fn run(_: BenchArgs) -> anyhow::Result<()> {
    Ok(())
}
