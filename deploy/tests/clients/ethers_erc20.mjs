// ethers v6, unmodified, against a consortium: an ERC-20 deployed on one member and used on the others, with events
// over WebSocket.
//
// node ethers_erc20.mjs --modules NODE_MODULES --token Token.json --url http://A --url http://B --url http://C
//      --ws ws://B --ws ws://D [--account 2]
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";

const { values: args } = parseArgs({
  options: {
    modules: { type: "string" },
    token: { type: "string" },
    url: { type: "string", multiple: true },
    ws: { type: "string", multiple: true },
    account: { type: "string", default: "2" },
  },
});
if (!args.modules || !args.token || !args.url || !args.ws) {
  console.error("usage: ethers_erc20.mjs --modules DIR --token FILE --url URL… --ws URL… [--account N]");
  process.exit(2);
}
const ethers = createRequire(join(resolve(args.modules), "here.js"))("ethers");

const PATIENCE_MS = 60_000;
const BURST = 20;
const SUPPLY = 10n ** 24n;
const LIMIT = 10n ** 21n;
const MNEMONIC = "test test test test test test test test test test test junk";

let passed = 0;
let failed = 0;
const show = (v) => JSON.stringify(v, (_, x) => (typeof x === "bigint" ? x.toString() : x));
function that(what, held, detail = "") {
  if (held) {
    passed += 1;
    console.log(`ok      ${what}`);
  } else {
    failed += 1;
    console.log(`FAILED  ${what}: ${typeof detail === "string" ? detail : show(detail)}`);
  }
}
const equal = (what, got, expected) =>
  that(what, show(got) === show(expected), `got ${show(got)}, expected ${show(expected)}`);
// The action must fail; gives back the error.
async function refused(what, action, matches) {
  try {
    const got = await action();
    that(what, false, `not refused: ${show(got)}`);
  } catch (e) {
    that(what, matches(e), `${e.code} ${e.message}`);
    return e;
  }
}
// A promise that fails by its name instead of waiting for ever.
function within(what, promise) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${PATIENCE_MS / 1000} s`)), PATIENCE_MS);
  });
  return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}
async function until(what, probe) {
  const started = Date.now();
  while (Date.now() - started < PATIENCE_MS) {
    if (await probe()) return that(what, true);
    await new Promise((r) => setTimeout(r, 20));
  }
  that(what, false, `not within ${PATIENCE_MS / 1000} s`);
}

// ethers remembers answers for 250 ms, nonces too: longer than a block takes here.
const options = { cacheTimeout: -1, pollingInterval: 50 };
const http = args.url.map((url) => new ethers.JsonRpcProvider(url, undefined, options));
const sockets = args.ws.map((url) => new ethers.WebSocketProvider(url, undefined, options));
const node = (i) => http[i % http.length];
const first = Number(args.account);
const wallet = (i) => ethers.HDNodeWallet.fromPhrase(MNEMONIC, undefined, `m/44'/60'/0'/0/${i}`);
const owner = wallet(first);
const friend = wallet(first + 1);
const artifact = JSON.parse(readFileSync(args.token, "utf8"));
let address;
const token = (runner) => new ethers.Contract(address, artifact.abi, runner);
// Asks until it is there. `waitForTransaction` counts confirmations by a remembered head and may wait for one block
// more, which a chain without empty blocks does not have; `tx.wait()`, which most programs use, does not.
async function receiptOn(i, hash) {
  const started = Date.now();
  while (Date.now() - started < PATIENCE_MS) {
    const receipt = await node(i).getTransactionReceipt(hash);
    if (receipt !== null) return receipt;
    await new Promise((r) => setTimeout(r, 20));
  }
  throw new Error(`no receipt of ${hash} on node ${i} within ${PATIENCE_MS / 1000} s`);
}

async function basics() {
  const networks = await Promise.all([...http, ...sockets].map((p) => p.getNetwork()));
  that("one chain id on all nodes, over HTTP and WebSocket", networks.every((n) => n.chainId === networks[0].chainId));
  const fees = await node(0).getFeeData();
  that("fee data has a gas price", fees.gasPrice !== null, fees);
  that("the owner is funded", (await node(1).getBalance(owner.address)) > 10n ** 18n);
  for (const tag of ["latest", "safe", "finalized"]) {
    that(`block tag ${tag}`, (await node(1).getBlock(tag)).hash !== null);
  }
}

async function deploy() {
  const factory = new ethers.ContractFactory(artifact.abi, artifact.bytecode, owner.connect(node(0)));
  const contract = await factory.deploy(SUPPLY, LIMIT);
  const sent = contract.deploymentTransaction();
  // ethers takes a base fee of 0 for none and then sends a legacy transaction; `types` asks for EIP-1559.
  const { baseFeePerGas } = await node(0).getBlock("latest");
  equal("the type that ethers chooses by itself", sent.type, baseFeePerGas ? 2 : 0);
  await within("deployment", contract.waitForDeployment());
  address = await contract.getAddress();
  const receipts = await Promise.all(http.map((_, i) => receiptOn(i, sent.hash)));
  that("the same receipt on every node", receipts.every((r) => show(r.toJSON()) === show(receipts[0].toJSON())));
  equal("the contract has the address that its sender and nonce give", receipts[0].contractAddress, address);
  for (let i = 0; i < http.length; i += 1) {
    equal(`node ${i} reads the owner's balance`, await token(node(i)).balanceOf(owner.address), SUPPLY);
    equal(`node ${i} reads the symbol`, await token(node(i)).symbol(), "QTT");
  }
}

// What clients are told of over WebSocket. The first socket is the second node's.
async function subscriptions() {
  const watched = token(sockets[sockets.length - 1]);
  const heads = [];
  const pending = [];
  const transfers = [];
  let done;
  const both = new Promise((r) => {
    done = r;
  });
  const look = () => {
    if (transfers.length > 0 && heads.length > 0) done();
  };
  await watched.on(watched.filters.Transfer(owner.address), ({ args: { value }, log }) => {
    transfers.push({ value, hash: log.transactionHash, height: log.blockNumber });
    look();
  });
  await sockets[0].on("block", (height) => {
    heads.push(height);
    look();
  });
  await sockets[0].on("pending", (hash) => pending.push(hash));
  // `on` returns before the node has answered; a call on the same socket comes after it.
  for (let i = 0; i < 3; i += 1) await Promise.all(sockets.map((s) => s.send("eth_blockNumber", [])));

  // Through B, whose pool it is in at once; other members may have the block before they have heard of it.
  const sent = await token(owner.connect(node(1))).transfer(friend.address, 500n);
  const receipt = await within("receipt", sent.wait());
  await within("events over WebSocket", both);
  equal("contract.on told of the transfer, once", transfers.map((t) => [t.value, t.hash, t.height]), [
    [500n, sent.hash, receipt.blockNumber],
  ]);
  await until('provider.on("block") told of its block', () => heads.includes(receipt.blockNumber));
  await until('provider.on("pending") told of the transaction', () => pending.includes(sent.hash));
  await watched.removeAllListeners();
  await Promise.all(sockets.map((s) => s.removeAllListeners()));
  const found = await token(node(2)).queryFilter("Transfer", receipt.blockNumber, receipt.blockNumber);
  that("queryFilter on C finds it", found.some((e) => e.transactionHash === sent.hash), found);
  for (let i = 0; i < http.length; i += 1) {
    await receiptOn(i, sent.hash);
    equal(`node ${i} reads the friend's balance`, await token(node(i)).balanceOf(friend.address), 500n);
  }
  // The other way: sent over a socket, read on A.
  const over = await token(owner.connect(sockets[sockets.length - 1])).transfer(friend.address, 5n);
  equal("a transaction sent over WebSocket", (await receiptOn(0, over.hash)).status, 1);
}

async function burst() {
  const before = await token(node(0)).balanceOf(friend.address);
  const manager = new ethers.NonceManager(owner.connect(node(1)));
  const contract = token(manager);
  const sent = await Promise.all(Array.from({ length: BURST }, () => contract.transfer(friend.address, 1n)));
  const receipts = await within("burst", Promise.all(sent.map((tx) => tx.wait())));
  equal(`${BURST} transfers at once are all executed`, receipts.map((r) => r.status), Array(BURST).fill(1));
  equal("each with a nonce of its own", new Set(sent.map((tx) => tx.nonce)).size, BURST);
  for (let i = 0; i < http.length; i += 1) {
    await until(`node ${i} counts all of them`, async () =>
      (await token(node(i)).balanceOf(friend.address)) === before + BigInt(BURST));
  }
}

async function reverts() {
  const contract = token(owner.connect(node(2)));
  await refused("a reverting call tells its reason", () => contract.pay.staticCall(friend.address, LIMIT + 1n),
    (e) => e.code === "CALL_EXCEPTION" && e.reason === "Token: above the limit");
  await refused("so does gas estimation", () => contract.pay(friend.address, LIMIT + 1n),
    (e) => e.code === "CALL_EXCEPTION" && e.reason === "Token: above the limit");
  await refused("a custom error is decoded", () => contract.transfer.staticCall(friend.address, SUPPLY * 2n),
    (e) => e.code === "CALL_EXCEPTION" && e.revert?.name === "ERC20InsufficientBalance");
  const sent = await contract.pay(friend.address, LIMIT + 1n, { gasLimit: 100_000n });
  const e = await refused("waiting for a reverted transaction fails", () => within("revert", sent.wait()),
    (e) => e.code === "CALL_EXCEPTION");
  equal("its receipt has status 0", e?.receipt?.status, 0);
}

// Every transaction type that a default genesis allows (blobs have no place on this chain).
async function types() {
  const sender = owner.connect(node(0));
  const plain = { to: friend.address, value: 1n };
  const { chainId } = await node(0).getNetwork();
  const cases = [
    ["legacy (0)", { ...plain, type: 0 }],
    ["access list (1)", { ...plain, type: 1, accessList: [{ address, storageKeys: [ethers.ZeroHash] }] }],
    ["EIP-1559 (2)", { ...plain, type: 2 }],
    ["EIP-1559 (2) with fees", { ...plain, type: 2, maxFeePerGas: 10n ** 9n, maxPriorityFeePerGas: 10n ** 9n }],
  ];
  for (const [name, tx] of cases) {
    const sent = await sender.sendTransaction(tx);
    const receipt = await receiptOn(1, sent.hash);
    equal(`${name} is executed`, [receipt.status, receipt.type], [1, tx.type]);
    const read = await node(2).getTransaction(sent.hash);
    that(`${name} reads back the same`, read !== null && read.from === owner.address && read.type === tx.type, read);
  }
  const fresh = ethers.Wallet.createRandom().connect(node(0));
  const authorization = await fresh.authorize({ address, nonce: 0, chainId });
  const sent = await sender.sendTransaction({ ...plain, type: 4, authorizationList: [authorization], gasLimit: 200_000n });
  equal("set code (4) is executed", (await receiptOn(1, sent.hash)).status, 1);
  equal("and delegates the account", (await node(1).getCode(fresh.address)).toLowerCase(),
    `0xef0100${address.slice(2).toLowerCase()}`);
}

async function refusals() {
  const sender = owner.connect(node(1));
  await refused("a used nonce", () => sender.sendTransaction({ to: friend.address, nonce: 0, gasLimit: 21_000n }),
    (e) => e.code === "NONCE_EXPIRED");
  await refused("more than one has", () => sender.sendTransaction({ to: friend.address, value: 10n ** 40n, gasLimit: 21_000n }),
    (e) => e.code === "INSUFFICIENT_FUNDS");
  await refused("a method that is none", () => node(1).send("eth_noSuchMethod", []),
    (e) => e.error?.code === -32601);
  await refused("parameters that are none", () => node(1).send("eth_getBalance", ["nobody", "latest"]),
    (e) => e.error?.code === -32602);
}

let finished = false;
try {
  for (const step of [basics, deploy, subscriptions, burst, reverts, types, refusals]) {
    console.log(`# ${step.name}`);
    await step();
  }
  finished = true;
} catch (e) {
  failed += 1;
  console.log(`FAILED  ${e.stack ?? e}`);
}
for (const provider of [...http, ...sockets]) await provider.destroy();
console.log(`${passed} checks held, ${failed} failed`);
process.exit(finished && failed === 0 && passed > 0 ? 0 : 1);
