//! Before the clock starts: funding senders and deploying the token, through JSON-RPC.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use alloy_primitives::{B256, Bytes, TxKind, U256, hex};
use anyhow::{Context as _, anyhow, bail};
use serde_json::{Value, json};

use super::Kind;
use super::token;
use super::workload::{Account, Signed, TOKEN_GAS, TRANSFER_GAS, Terms, Workload};
use crate::accounts::development_keys;
use crate::cli::client::{HttpClient, quantity, result_of};
use crate::keys::parse_key;

/// Transactions in one HTTP request: below the nodes' limit of a batch.
const BATCH: usize = 100;
/// Transactions of the funder that wait at the same time: below the pool's limit for one sender.
const UNCOMMITTED_MAX: usize = 2_000;
/// Committing one such portion takes far less.
const PATIENCE: Duration = Duration::from_secs(60);
/// Tokens that each sender gets: more than it can send.
const TOKENS: u64 = 1 << 40;

/// The funder and the chain it is on.
pub struct Setup {
    client: HttpClient,
    url: String,
    terms: Terms,
    funder: Account,
    /// Height at which the last preparation was committed.
    height: AtomicU64,
}

impl Setup {
    /// Asks the node for what is needed to sign.
    ///
    /// # Errors
    /// If it does not answer, or the funder's key cannot be read.
    pub async fn begin(
        client: HttpClient,
        url: &str,
        funder_key: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let key = match funder_key {
            Some(file) => {
                let text = std::fs::read_to_string(file)
                    .with_context(|| format!("--funder-key {}", file.display()))?;
                parse_key(&text).with_context(|| format!("--funder-key {}", file.display()))?
            }
            None => development_keys()
                .last()
                .map(|(_, key)| *key)
                .ok_or_else(|| anyhow!("no development accounts"))?,
        };
        let ask = |method: &'static str| client.call(url, method, json!([]));
        let chain_id =
            quantity(&ask("eth_chainId").await?).ok_or_else(|| anyhow!("{url}: no chain id"))?;
        let gas_price =
            quantity(&ask("eth_gasPrice").await?).ok_or_else(|| anyhow!("{url}: no gas price"))?;
        Ok(Self {
            url: url.to_owned(),
            terms: Terms {
                chain_id,
                gas_price: u128::from(gas_price),
            },
            funder: Account::of(key),
            height: AtomicU64::new(0),
            client,
        })
    }

    /// Every node has to be here before load starts.
    pub fn height(&self) -> u64 {
        self.height.load(Ordering::Relaxed)
    }

    /// Makes and funds senders, and the token if it is asked for.
    ///
    /// # Errors
    /// If the funder has too little, or something is not committed.
    pub async fn prepare(
        &self,
        kind: Kind,
        senders: usize,
        recipients: usize,
        count: usize,
    ) -> anyhow::Result<Workload> {
        let senders: Vec<Account> = (0..senders).map(|_| Account::new()).collect();
        let gas = match kind {
            Kind::Transfer => TRANSFER_GAS,
            Kind::Erc20 => TOKEN_GAS,
        };
        let per_sender = U256::from(count.div_ceil(senders.len().max(1)));
        // 0.01 ether beyond what is needed.
        let wei = per_sender
            * (U256::from(gas) * U256::from(self.terms.gas_price) + U256::from(1u64))
            + U256::from(10_000_000_000_000_000u64);
        let balance = self
            .client
            .call(
                &self.url,
                "eth_getBalance",
                json!([self.funder.address, "latest"]),
            )
            .await?;
        let balance: U256 = serde_json::from_value(balance)?;
        let needed = (wei + U256::from(TRANSFER_GAS) * U256::from(self.terms.gas_price))
            * U256::from(senders.len());
        if balance < needed {
            bail!(
                "the funder {} has {balance} wei and needs {needed}: name a funded account with --funder-key",
                self.funder.address
            );
        }
        let mut nonce = self.next_nonce().await?;
        let mut signed = Vec::with_capacity(senders.len());
        for sender in &senders {
            signed.push(self.signed(
                &mut nonce,
                sender.address.into(),
                wei,
                TRANSFER_GAS,
                Bytes::new(),
            ));
        }
        let mut address = None;
        if kind == Kind::Erc20 {
            let token = self.funder.address.create(nonce);
            signed.push(self.signed(
                &mut nonce,
                TxKind::Create,
                U256::ZERO,
                1_000_000,
                token::creation_code(),
            ));
            for sender in &senders {
                let call = token::transfer_call(sender.address, TOKENS);
                signed.push(self.signed(&mut nonce, token.into(), U256::ZERO, TOKEN_GAS, call));
            }
            address = Some(token);
        }
        for portion in signed.chunks(UNCOMMITTED_MAX) {
            self.commit(portion).await?;
        }
        Ok(Workload {
            terms: self.terms,
            senders,
            recipients,
            token: address,
        })
    }

    fn signed(&self, nonce: &mut u64, to: TxKind, value: U256, gas: u64, input: Bytes) -> Signed {
        let signed = self.funder.sign(self.terms, *nonce, to, value, gas, input);
        *nonce += 1;
        signed
    }

    async fn next_nonce(&self) -> anyhow::Result<u64> {
        let params = json!([self.funder.address, "pending"]);
        let nonce = self
            .client
            .call(&self.url, "eth_getTransactionCount", params)
            .await?;
        quantity(&nonce)
            .ok_or_else(|| anyhow!("{}: no nonce for {}", self.url, self.funder.address))
    }

    /// Sends transactions of one sender in the order of their nonces and waits until the last one is committed.
    async fn commit(&self, transactions: &[Signed]) -> anyhow::Result<()> {
        for batch in transactions.chunks(BATCH) {
            let params = batch.iter().map(|t| json!([hex::encode_prefixed(&t.raw)]));
            for answer in self.batch("eth_sendRawTransaction", params).await? {
                answer?;
            }
        }
        let last = transactions
            .last()
            .ok_or_else(|| anyhow!("nothing to commit"))?;
        let started = Instant::now();
        let receipt = loop {
            let receipt = self
                .client
                .call(&self.url, "eth_getTransactionReceipt", json!([last.hash]))
                .await?;
            if !receipt.is_null() {
                break receipt;
            }
            if started.elapsed() > PATIENCE {
                bail!(
                    "preparation: {} was not committed within {PATIENCE:?}",
                    last.hash
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        if receipt["status"] != "0x1" {
            bail!("preparation: {} failed", last.hash);
        }
        self.height.fetch_max(
            quantity(&receipt["blockNumber"]).unwrap_or_default(),
            Ordering::Relaxed,
        );
        Ok(())
    }

    async fn batch(
        &self,
        method: &str,
        params: impl Iterator<Item = Value>,
    ) -> anyhow::Result<Vec<anyhow::Result<Value>>> {
        let calls = params.enumerate().map(|(id, params)| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        let calls: Vec<Value> = calls.collect();
        let answer = self
            .client
            .post(&self.url, Value::Array(calls).to_string().into())
            .await?;
        let answers: Vec<Value> = serde_json::from_slice(&answer)
            .with_context(|| format!("{}: {}", self.url, String::from_utf8_lossy(&answer)))?;
        Ok(answers
            .into_iter()
            .map(|a| Ok(result_of(&self.url, method, a)?))
            .collect())
    }

    /// How many of these were executed, and how many of them failed.
    ///
    /// # Errors
    /// If the node does not answer or has not got a receipt.
    pub async fn check_receipts(&self, hashes: &[B256]) -> anyhow::Result<Checked> {
        let mut checked = Checked::default();
        for hashes in hashes.chunks(BATCH) {
            for receipt in self
                .batch(
                    "eth_getTransactionReceipt",
                    hashes.iter().map(|h| json!([h])),
                )
                .await?
            {
                checked.count += 1;
                if receipt?["status"] != "0x1" {
                    checked.failed += 1;
                }
            }
        }
        Ok(checked)
    }
}

/// What receipts say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Checked {
    /// Receipts that were looked at.
    pub count: usize,
    /// Those without success.
    pub failed: usize,
}
