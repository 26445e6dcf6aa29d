//! How many payloads one thread seals and opens per second, by suite and number of recipients.
//!
//! ```text
//! cargo run --release -p quorate-enclave --example seal-rate -- [payload bytes, 1024] [milliseconds for each, 1000]
//! ```

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use quorate_enclave::{
    Context, KeyRing, LocalEnclave, NodeKey, Opening, PrivacyFlag, SealRequest, Suite,
};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mut number = |default: u64| -> Result<u64> {
        let arg = args.next().map(|text| text.parse());
        Ok(arg
            .transpose()
            .context("a number was expected")?
            .unwrap_or(default))
    };
    let bytes = usize::try_from(number(1024)?)?;
    let each = Duration::from_millis(number(1000)?);
    let mut out = std::io::stdout();
    writeln!(
        out,
        "suite   recipients  seal/s   open/s   copy bytes (payload of {bytes})"
    )?;
    for suite in Suite::ALL {
        for recipients in [2usize, 10] {
            measure(&mut out, suite, recipients, bytes, each)?;
        }
    }
    Ok(())
}

fn measure(
    out: &mut impl std::io::Write,
    suite: Suite,
    recipients: usize,
    bytes: usize,
    each: Duration,
) -> Result<()> {
    let sender = LocalEnclave::new(KeyRing::generate(1)?);
    let others: Vec<LocalEnclave> = (0..recipients)
        .map(|_| Ok(LocalEnclave::new(KeyRing::generate(1)?)))
        .collect::<Result<_>>()?;
    let context = Context {
        chain_id: 10,
        sender_node: NodeKey::from([2; 33]),
        privacy_group: None,
        flag: PrivacyFlag::Standard,
    };
    let request = SealRequest {
        payload: vec![7u8; bytes].into(),
        sender: None,
        recipients: others
            .iter()
            .flat_map(LocalEnclave::public_keys_now)
            .collect(),
        mandatory: Vec::new(),
        context,
        suite,
    };
    let sealed = sender.seal_now(&request)?;
    let key = others.first().map(LocalEnclave::public_keys_now);
    let key = key
        .and_then(|keys| keys.first().map(|k| k.key))
        .context("a recipient")?;
    let copy = sealed.envelope.copy_for(key).context("a copy")?;
    let opener = others.first().context("a recipient")?;
    let seals = rate(each, || {
        sender.seal_now(&request).map(|_| ()).context("seal")
    })?;
    let opens = rate(each, || match opener.open_now(&copy, &context)? {
        Opening::Opened(_) => Ok(()),
        Opening::NotForUs => anyhow::bail!("not opened"),
    })?;
    writeln!(
        out,
        "{:7} {recipients:10}  {seals:6.0}   {opens:6.0}   {}",
        format!("{suite:?}").to_lowercase(),
        copy.encode().len()
    )?;
    Ok(())
}

/// Calls per second.
fn rate(each: Duration, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    let mut calls = 0u32;
    while start.elapsed() < each {
        call()?;
        calls += 1;
    }
    Ok(f64::from(calls) / start.elapsed().as_secs_f64())
}
