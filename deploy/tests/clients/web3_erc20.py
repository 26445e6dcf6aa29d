"""web3.py, unmodified, against a consortium: an ERC-20 deployed on one member and used on the others.

web3_erc20.py --token Token.json --url http://A --url http://B --url http://C [--account 0]
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor

import rlp
from eth_account import Account
from eth_utils import keccak
from web3 import Web3
from web3.exceptions import TransactionNotFound

from checks import PATIENCE_SECONDS, Checks, account

BURST = 20
SUPPLY = 10**24
LIMIT = 10**21


def header_hash(block):
    """The block's hash, computed here from the header's fields as Ethereum defines it."""

    def number(name):
        value = block[name]
        return value if isinstance(value, int) else int.from_bytes(bytes(value), "big")

    fields = [
        bytes(block["parentHash"]),
        bytes(block["sha3Uncles"]),
        bytes.fromhex(block["miner"][2:]),
        bytes(block["stateRoot"]),
        bytes(block["transactionsRoot"]),
        bytes(block["receiptsRoot"]),
        bytes(block["logsBloom"]),
        number("difficulty"),
        number("number"),
        number("gasLimit"),
        number("gasUsed"),
        number("timestamp"),
        bytes(block["extraData"]),
        bytes(block["mixHash"]),
        bytes(block["nonce"]),
    ]
    # Later forks append fields; a header holds a prefix of them.
    for name, is_number in [
        ("baseFeePerGas", True),
        ("withdrawalsRoot", False),
        ("blobGasUsed", True),
        ("excessBlobGas", True),
        ("parentBeaconBlockRoot", False),
        ("requestsHash", False),
    ]:
        if name not in block or block[name] is None:
            break
        fields.append(number(name) if is_number else as_bytes(block[name]))
    return keccak(rlp.encode(fields))


def as_bytes(value):
    return bytes.fromhex(value[2:]) if isinstance(value, str) else bytes(value)


class Run:
    def __init__(self, args):
        self.checks = Checks()
        self.nodes = [Web3(Web3.HTTPProvider(url)) for url in args.url]
        self.owner = account(args.account)
        self.friend = account(args.account + 1)
        with open(args.token) as f:
            self.artifact = json.load(f)

    def node(self, i):
        return self.nodes[i % len(self.nodes)]

    def receipt(self, i, tx):
        return self.node(i).eth.wait_for_transaction_receipt(tx, timeout=PATIENCE_SECONDS, poll_latency=0.02)

    def send(self, i, call, sender=None, **fields):
        """Fills, signs and sends a contract call as web3.py does by default."""
        sender = sender or self.owner
        w3 = self.node(i)
        fields.setdefault("nonce", w3.eth.get_transaction_count(sender.address, "pending"))
        tx = call.build_transaction({"from": sender.address, **fields})
        return w3.eth.send_raw_transaction(sender.sign_transaction(tx).raw_transaction), tx

    def token(self, i):
        return self.node(i).eth.contract(address=self.address, abi=self.artifact["abi"])

    def sees_everywhere(self, what, tx):
        receipts = [self.receipt(i, tx) for i in range(len(self.nodes))]
        self.checks.that(f"{what}: the same receipt on every node", all(r == receipts[0] for r in receipts), receipts)
        self.checks.equal(f"{what}: executed with success", receipts[0]["status"], 1)
        return receipts[0]

    def basics(self):
        check = self.checks
        for i, w3 in enumerate(self.nodes):
            check.that(f"node {i} is connected", w3.is_connected())
        ids = {w3.eth.chain_id for w3 in self.nodes}
        check.equal("one chain id on all nodes", len(ids), 1)
        check.equal("net_version is the chain id", self.node(0).net.version, str(ids.copy().pop()))
        check.that("the client names itself", "/" in self.node(0).client_version, self.node(0).client_version)
        genesis = [bytes(w3.eth.get_block(0)["hash"]) for w3 in self.nodes]
        check.that("the same genesis on all nodes", all(h == genesis[0] for h in genesis), genesis)
        check.equal("the genesis hash is that of its header", header_hash(self.node(0).eth.get_block(0)), genesis[0])
        check.that("the owner is funded", self.node(1).eth.get_balance(self.owner.address) > 10**18)
        check.equal("web3_sha3", self.node(0).provider.make_request("web3_sha3", ["0x68656c6c6f"])["result"],
                    "0x" + keccak(b"hello").hex())
        fees = self.node(0).eth.fee_history(4, "latest", [50])
        check.that("fee history has a base fee for the next block", len(fees["baseFeePerGas"]) >= 1, fees)
        for i, w3 in enumerate(self.nodes):
            check.equal(f"node {i} is not syncing", w3.eth.syncing, False)

    def deploy(self):
        check = self.checks
        factory = self.node(0).eth.contract(abi=self.artifact["abi"], bytecode=self.artifact["bytecode"])
        hash_, tx = self.send(0, factory.constructor(SUPPLY, LIMIT))
        check.that("web3.py chose an EIP-1559 transaction by itself", "maxFeePerGas" in tx, tx)
        receipt = self.sees_everywhere("deployment on A", hash_)
        self.address = receipt["contractAddress"]
        self.deployed_at = receipt["blockNumber"]
        check.equal("transaction type is 2", receipt["type"], 2)
        for i, w3 in enumerate(self.nodes):
            check.that(f"node {i} has the code", len(w3.eth.get_code(self.address)) > 100)
            check.equal(f"node {i} reads the name", self.token(i).functions.name().call(), "Quorate Test Token")
            check.equal(f"node {i} reads the owner's balance", self.balance(i, self.owner), SUPPLY)
        minted = self.token(1).events.Transfer().process_receipt(receipt)
        check.equal("the deployment's Transfer log", minted[0]["args"]["value"], SUPPLY)

    def balance(self, i, who, at="latest"):
        return self.token(i).functions.balanceOf(who.address).call(block_identifier=at)

    def transfer(self):
        check = self.checks
        hash_, _ = self.send(1, self.token(1).functions.transfer(self.friend.address, 1_000))
        receipt = self.sees_everywhere("transfer through B", hash_)
        height = receipt["blockNumber"]
        for i in range(len(self.nodes)):
            check.equal(f"node {i} reads the friend's balance", self.balance(i, self.friend), 1_000)
            check.equal(f"node {i} reads the balance before", self.balance(i, self.friend, height - 1), 0)
            logs = self.token(i).events.Transfer().get_logs(
                from_block=self.deployed_at, argument_filters={"to": self.friend.address})
            check.equal(f"node {i} finds the Transfer log by its recipient",
                        [(e["args"]["value"], bytes(e["transactionHash"])) for e in logs], [(1_000, bytes(hash_))])
            check.equal(f"node {i} returns the transaction",
                        self.node(i).eth.get_transaction(hash_)["blockNumber"], height)
        blocks = [dict(w3.eth.get_block(height, full_transactions=True)) for w3 in self.nodes]
        check.that("the same block on all nodes", all(b == blocks[0] for b in blocks), blocks)
        check.equal("the block hash is that of its header", header_hash(blocks[0]), bytes(blocks[0]["hash"]))
        found = [t for t in blocks[0]["transactions"] if t["hash"] == hash_]
        check.equal("the block holds the transaction", len(found), 1)
        check.equal("its sender", found[0]["from"], self.owner.address)

    def filters(self):
        check = self.checks
        events = self.token(2).events.Transfer.create_filter(from_block="latest")
        heads = self.node(1).eth.filter("latest")
        # A filter from `latest` may begin with the logs of the head itself.
        events.get_new_entries()
        hash_, _ = self.send(0, self.token(0).functions.transfer(self.friend.address, 77))
        seen = check.until("a filter on C tells of a transfer on A",
                           lambda: [e for e in events.get_new_entries() if e["transactionHash"] == hash_])
        check.equal("the filter's log", seen[0]["args"]["value"], 77)
        block = self.receipt(0, hash_)["blockHash"]
        check.until("a block filter on B tells of its block", lambda: block in heads.get_new_entries())
        check.that("a filter is removed", self.node(2).eth.uninstall_filter(events.filter_id))
        check.refused("a removed filter is not found", events.get_new_entries, "filter")

    def burst(self):
        """Twenty transfers at once, nonces out of order, over all nodes."""
        check = self.checks
        before = self.balance(0, self.friend)
        nonce = self.node(0).eth.get_transaction_count(self.owner.address, "pending")
        call = self.token(0).functions.transfer(self.friend.address, 1)
        template = call.build_transaction({"from": self.owner.address, "nonce": nonce})
        signed = [self.owner.sign_transaction({**template, "nonce": nonce + i}) for i in range(BURST)]
        # Even nonces first: half of them arrive before what they wait for.
        order = sorted(range(BURST), key=lambda i: (i % 2, i))
        with ThreadPoolExecutor(BURST) as pool:
            hashes = list(pool.map(
                lambda i: self.node(i).eth.send_raw_transaction(signed[i].raw_transaction), order))
            receipts = list(pool.map(lambda h: self.receipt(0, h), hashes))
        check.equal(f"{BURST} transfers at once are all executed", [r["status"] for r in receipts], [1] * BURST)
        self.receipt(1, hashes[-1])
        self.receipt(2, hashes[-1])
        by_nonce = [r for _, r in sorted(zip(order, receipts), key=lambda pair: pair[0])]
        places = [(r["blockNumber"], r["transactionIndex"]) for r in by_nonce]
        check.equal("in the order of their nonces", places, sorted(places))
        for i in range(len(self.nodes)):
            check.until(f"node {i} counts all of them",
                        lambda i=i: self.balance(i, self.friend) == before + BURST)
            check.equal(f"node {i} has the next nonce",
                        self.node(i).eth.get_transaction_count(self.owner.address), nonce + BURST)

    def reverts(self):
        check = self.checks
        token = self.token(1)
        over = token.functions.pay(self.friend.address, LIMIT + 1)
        check.refused("a reverting call tells its reason", lambda: over.call({"from": self.owner.address}),
                      "token: above the limit")
        check.refused("so does gas estimation", lambda: over.estimate_gas({"from": self.owner.address}),
                      "token: above the limit")
        custom = check.refused("a custom error carries its data",
                               lambda: token.functions.transfer(self.owner.address, SUPPLY * 2)
                               .call({"from": self.friend.address}), "0xe450d38c")
        check.that("it is ERC20InsufficientBalance", "0xe450d38c" in str(getattr(custom, "data", custom)), repr(custom))
        hash_, _ = self.send(1, over, gas=100_000)
        receipts = [self.receipt(i, hash_) for i in range(len(self.nodes))]
        check.equal("a reverted transaction has status 0 on every node", [r["status"] for r in receipts],
                    [0] * len(self.nodes))
        check.equal("and no logs", len(receipts[0]["logs"]), 0)

    def refusals(self):
        check = self.checks
        w3 = self.node(2)
        good = {"to": self.friend.address, "value": 1, "gas": 21_000, "gasPrice": 0, "chainId": w3.eth.chain_id,
                "nonce": w3.eth.get_transaction_count(self.owner.address)}

        def send(signer=self.owner, **changes):
            raw = signer.sign_transaction({**good, **changes}).raw_transaction
            return w3.eth.send_raw_transaction(raw)

        check.refused("a used nonce", lambda: send(nonce=0), "nonce too low")
        check.refused("a foreign chain id", lambda: send(chainId=1), "chain id")
        check.refused("too little gas", lambda: send(gas=20_999), "intrinsic gas")
        check.refused("gas above the block limit", lambda: send(gas=2**53), "gas limit")
        check.refused("more than one has", lambda: send(value=10**40), "insufficient funds")
        check.refused("a sender without funds", lambda: send(signer=Account.create(), nonce=0), "insufficient funds")
        check.refused("bytes that are no transaction", lambda: w3.eth.send_raw_transaction("0x1234"), "decod", "rlp",
                      "transaction")
        hash_ = send()
        check.equal("after them a legacy transaction without a fee is executed", self.receipt(0, hash_)["status"], 1)
        check.refused("the same again", lambda: w3.eth.send_raw_transaction(
            self.owner.sign_transaction(good).raw_transaction), "already known", "nonce too low")
        try:
            w3.eth.get_transaction("0x" + "11" * 32)
            check.that("an unknown transaction is not found", False, "found")
        except TransactionNotFound:
            check.that("an unknown transaction is not found", True)

    def unlocked(self):
        """The node signs, where it has the key (`quorate dev`)."""
        for i, w3 in enumerate(self.nodes):
            if self.owner.address not in w3.eth.accounts:
                print(f"--      node {i} has no unlocked accounts: eth_sendTransaction is not tried")
                continue
            hash_ = w3.eth.send_transaction({"from": self.owner.address, "to": self.friend.address, "value": 1})
            self.checks.equal(f"node {i} signs eth_sendTransaction", self.receipt(i, hash_)["status"], 1)
            token = self.token(i)
            hash_ = token.functions.transfer(self.friend.address, 1).transact({"from": self.owner.address})
            self.checks.equal(f"node {i} signs a contract call", self.receipt(i, hash_)["status"], 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--token", required=True, help="Token.json of compile.mjs")
    parser.add_argument("--url", action="append", required=True, help="JSON-RPC of a node; repeat")
    parser.add_argument("--account", type=int, default=0, help="first of the two development accounts to use")
    run = Run(parser.parse_args())
    for step in [run.basics, run.deploy, run.transfer, run.filters, run.burst, run.reverts, run.refusals, run.unlocked]:
        print(f"# {step.__name__}")
        step()
    run.checks.finish()


if __name__ == "__main__":
    main()
