"""A gRPC client made from our .proto by grpcio-tools, against a consortium.

grpc_client.py --proto PROTO_DIR --grpc HOST:PORT --grpc HOST:PORT … [--account 4]
"""

import argparse
import glob
import importlib
import os
import re
import secrets
import sys
import tempfile

import grpc
from eth_account import Account
from eth_utils import keccak
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_tools import protoc

from checks import PATIENCE_SECONDS, Checks, account

SERVICE = "quorate.v1.Ledger"
STREAMED = 10


def stubs(proto):
    """Generates and imports the client code, as any user of the .proto would."""
    out = tempfile.TemporaryDirectory()
    failed = protoc.main(["protoc", f"-I{proto}", f"--python_out={out.name}", f"--grpc_python_out={out.name}",
                          *sorted(glob.glob(os.path.join(proto, "quorate", "v1", "*.proto")))])
    if failed:
        sys.exit("the .proto does not compile")
    sys.path.insert(0, out.name)
    pb = importlib.import_module("quorate.v1.ledger_pb2")
    services = importlib.import_module("quorate.v1.ledger_pb2_grpc")
    return pb, services, out


class Run:
    def __init__(self, args):
        self.checks = Checks()
        self.pb, services, self._folder = stubs(args.proto)
        targets = [t.split("//")[-1] for t in args.grpc]
        self.channels = [grpc.insecure_channel(t) for t in targets]
        for target, channel in zip(targets, self.channels):
            grpc.channel_ready_future(channel).result(timeout=PATIENCE_SECONDS)
            print(f"--      connected to {target}")
        self.ledgers = [services.LedgerStub(c) for c in self.channels]
        self.sender = account(args.account)
        self.recipient = account(args.account + 1).address
        self.chain_id = self.status(0).chain_id
        self.nonce = None

    def ledger(self, i):
        return self.ledgers[i % len(self.ledgers)]

    def status(self, i):
        return self.ledger(i).Status(self.pb.StatusRequest(), timeout=PATIENCE_SECONDS)

    def call(self, i, name, request, timeout=PATIENCE_SECONDS):
        return getattr(self.ledger(i), name)(request, timeout=timeout)

    def refused(self, what, action, code, *words):
        """`action` must end with the status `code`, and say one of `words`."""
        try:
            got = action()
        except grpc.RpcError as e:
            held = e.code() == code and (not words or any(w in e.details().lower() for w in words))
            self.checks.that(what, held, f"{e.code()} {e.details()!r}")
            return
        self.checks.that(what, False, f"not refused: {got}")

    def signed(self, nonce, signer=None, **changes):
        fields = {"type": 2, "chainId": self.chain_id, "nonce": nonce, "to": self.recipient, "value": 1, "gas": 21_000,
                  "maxFeePerGas": 0, "maxPriorityFeePerGas": 0, **changes}
        return bytes((signer or self.sender).sign_transaction(fields).raw_transaction)

    def next_nonce(self):
        """The sender's nonce: a later run on the same chain begins where the earlier one ended."""
        if self.nonce is None:
            self.nonce = self.find_nonce()
        self.nonce += 1
        return self.nonce - 1

    def find_nonce(self):
        # Another one in each run: the same would be refused as known.
        raw = self.signed(0, value=secrets.randbelow(10**9))
        try:
            self.call(0, "SubmitTransaction", self.pb.SubmitTransactionRequest(raw=raw, wait=True))
            return 1
        except grpc.RpcError as e:
            found = re.search(r"next nonce (\d+)", e.details())
            if found is None:
                raise
            return int(found.group(1))

    def describe(self):
        check = self.checks
        statuses = [self.status(i) for i in range(len(self.ledgers))]
        first = statuses[0]
        check.that("one genesis on all nodes", all(s.genesis_hash == first.genesis_hash for s in statuses))
        check.equal("raft ids are the members'", len({s.raft_id for s in statuses}), len(statuses))
        check.equal("node ids are public keys", {len(s.node_id) for s in statuses}, {33})
        check.equal("all name one leader", len({s.leader for s in statuses}), 1)
        leaders = [s for s in statuses if s.role == "leader"]
        check.that("at most one of them leads", len(leaders) <= 1, [s.role for s in statuses])
        check.that("a version", len(first.version) > 0)
        for i, s in enumerate(statuses):
            check.that(f"node {i} has applied no more than is committed", s.applied_index <= s.committed_index, s)

    def standard_services(self):
        check = self.checks
        for i, channel in enumerate(self.channels):
            stub = health_pb2_grpc.HealthStub(channel)
            for service in ["", SERVICE]:
                answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_SECONDS)
                check.equal(f"node {i}: health of {service or 'the server'}", answer.status,
                            health_pb2.HealthCheckResponse.SERVING)
        reflection = reflection_pb2_grpc.ServerReflectionStub(self.channels[0])
        requests = [reflection_pb2.ServerReflectionRequest(list_services=""),
                    reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)]
        try:
            answers = list(reflection.ServerReflectionInfo(iter(requests), timeout=PATIENCE_SECONDS))
        except grpc.RpcError as e:
            if e.code() != grpc.StatusCode.UNIMPLEMENTED:
                raise
            # Only the newer version of the service is there. Its messages are the same.
            call = self.channels[0].stream_stream(
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString)
            answers = list(call(iter(requests), timeout=PATIENCE_SECONDS))
        names = [s.name for s in answers[0].list_services_response.service]
        check.that("reflection lists the service", SERVICE in names, names)
        files = [descriptor_pb2.FileDescriptorProto.FromString(f)
                 for f in answers[1].file_descriptor_response.file_descriptor_proto]
        methods = [m.name for f in files for s in f.service if s.name == "Ledger" for m in s.method]
        expected = [m.name for m in self.pb.DESCRIPTOR.services_by_name["Ledger"].methods]
        check.equal("reflection describes its methods", sorted(methods), sorted(expected))

    def follow(self):
        """A transaction through node 0, followed on every node by its status."""
        check, pb = self.checks, self.pb
        raw = self.signed(self.next_nonce())
        answer = self.call(0, "SubmitTransaction", pb.SubmitTransactionRequest(raw=raw))
        check.equal("the hash is the keccak of the bytes", answer.hash, keccak(raw))
        check.that("no commitment where none was asked for", not answer.HasField("commitment"))
        seen = set()
        receipts = []
        for i in range(len(self.ledgers)):
            def probe(i=i):
                status = self.call(i, "GetTransactionStatus", pb.GetTransactionStatusRequest(hash=answer.hash))
                seen.add(status.state)
                return status if status.state == pb.TransactionStatus.STATE_COMMITTED else None
            status = check.until(f"node {i} says committed", probe)
            receipt = self.call(i, "GetReceipt", pb.GetReceiptRequest(hash=answer.hash))
            check.equal(f"node {i}: status and receipt name the same place",
                        (status.commitment.block_height, status.commitment.block_hash, status.commitment.position),
                        (receipt.block_height, receipt.block_hash, receipt.position))
            receipts.append(receipt)
        allowed = {pb.TransactionStatus.STATE_UNKNOWN, pb.TransactionStatus.STATE_PENDING,
                   pb.TransactionStatus.STATE_COMMITTED}
        check.that("on its way it was unknown, pending or committed", seen <= allowed, seen)
        check.that("the same receipt on every node", all(r == receipts[0] for r in receipts), receipts)
        receipt = receipts[0]
        check.equal("success, gas, sender and recipient",
                    (receipt.success, receipt.gas_used, getattr(receipt, "from"), receipt.to),
                    (True, 21_000, address(self.sender.address), address(self.recipient)))
        transaction = self.call(1, "GetTransaction", pb.GetTransactionRequest(hash=answer.hash))
        check.equal("the transaction comes back as it was sent", transaction.raw, raw)
        block = self.call(2, "GetBlock", pb.GetBlockRequest(height=receipt.block_height))
        check.equal("its block holds it", block.transaction_hashes[receipt.position], answer.hash)
        check.equal("the block's hash is that of its header", keccak(block.header), block.hash)
        check.equal("by its hash it is the same block",
                    self.call(0, "GetBlock", pb.GetBlockRequest(hash=block.hash)), block)
        check.equal("without the bodies there are hashes", len(self.call(
            0, "GetBlock", pb.GetBlockRequest(height=block.height, hashes_only=True)).transactions), 0)
        self.check_seal(block)

    def check_seal(self, block):
        """The seal is the leader's: it recovers to the block's coinbase."""
        check = self.checks
        check.equal("the seal has 65 bytes", len(block.seal), 65)
        recovery = block.seal[64] - 27 if block.seal[64] >= 27 else block.seal[64]
        from eth_keys import keys
        key = keys.Signature(block.seal[:64] + bytes([recovery])).recover_public_key_from_msg_hash(block.hash)
        check.equal("the seal recovers to the coinbase", key.to_canonical_address(), block.coinbase)

    def wait(self):
        check, pb = self.checks, self.pb
        raw = self.signed(self.next_nonce())
        answer = self.call(1, "SubmitTransaction", pb.SubmitTransactionRequest(raw=raw, wait=True))
        check.that("an answer that waited carries the commitment",
                   answer.HasField("commitment") and answer.commitment.success, answer)
        receipt = self.call(1, "GetReceipt", pb.GetReceiptRequest(hash=answer.hash))
        check.equal("the node that answered has the receipt", receipt.block_height, answer.commitment.block_height)
        # A transaction that waits for a lower nonce cannot be committed before the deadline.
        ahead = self.signed(self.nonce + 1)
        self.refused("a deadline ends the waiting", lambda: self.call(
            1, "SubmitTransaction", pb.SubmitTransactionRequest(raw=ahead, wait=True), timeout=1),
            grpc.StatusCode.DEADLINE_EXCEEDED)
        status = self.call(1, "GetTransactionStatus", pb.GetTransactionStatusRequest(hash=keccak(ahead)))
        check.that("and its status tells what it waits for",
                   status.state == pb.TransactionStatus.STATE_PENDING and "nonce" in status.reason, status)
        gap = self.signed(self.next_nonce())
        self.call(2, "SubmitTransaction", pb.SubmitTransactionRequest(raw=gap, wait=True))
        self.next_nonce()
        check.until("when the gap is filled it is committed", lambda: self.call(
            0, "GetTransactionStatus", pb.GetTransactionStatusRequest(hash=keccak(ahead))
        ).state == pb.TransactionStatus.STATE_COMMITTED)

    def stream(self):
        """Many over one stream: answers in order, a refused one among them."""
        check, pb = self.checks, self.pb
        raws = [self.signed(self.next_nonce()) for _ in range(STREAMED)]
        requests = [pb.SubmitTransactionsRequest(raw=r) for r in raws]
        requests.insert(3, pb.SubmitTransactionsRequest(raw=b"\x02nonsense"))
        answers = list(self.ledger(2).SubmitTransactions(iter(requests), timeout=PATIENCE_SECONDS))
        check.equal("one answer for each, in order", [a.sequence for a in answers], list(range(STREAMED + 1)))
        check.equal("only the nonsense is refused", [a.HasField("refusal") for a in answers],
                    [i == 3 for i in range(STREAMED + 1)])
        check.equal("as an invalid argument", answers[3].refusal.code, grpc.StatusCode.INVALID_ARGUMENT.value[0])
        check.equal("with the hashes", [a.hash for i, a in enumerate(answers) if i != 3], [keccak(r) for r in raws])
        check.until("all of the stream are committed", lambda: all(self.call(
            0, "GetTransactionStatus", pb.GetTransactionStatusRequest(hash=keccak(r))
        ).state == pb.TransactionStatus.STATE_COMMITTED for r in raws))

    def subscribe(self):
        """Blocks from genesis, then live, without a gap; the same on every node."""
        check, pb = self.checks, self.pb
        chains = []
        for i in range(len(self.ledgers)):
            head = self.status(i).head_height
            subscription = self.ledger(i).SubscribeBlocks(
                pb.SubscribeBlocksRequest(from_height=0, hashes_only=i % 2 == 1), timeout=PATIENCE_SECONDS)
            blocks = []
            target = None
            try:
                for block in subscription:
                    blocks.append(block)
                    if block.height >= head and target is None:
                        # Everything that existed has come; what is committed now must come live.
                        raw = self.signed(self.next_nonce())
                        answer = self.call(i + 1, "SubmitTransaction", pb.SubmitTransactionRequest(raw=raw, wait=True))
                        target = answer.commitment.block_height
                    if target is not None and block.height >= target:
                        break
            except grpc.RpcError as e:
                check.that(f"node {i}: the subscription lives", False, f"{e.code()} {e.details()}")
                continue
            subscription.cancel()
            check.equal(f"node {i}: {len(blocks)} blocks from genesis to a live one, without a gap",
                        [b.height for b in blocks], list(range(len(blocks))))
            check.that(f"node {i}: each names its parent",
                       all(b.parent_hash == a.hash for a, b in zip(blocks, blocks[1:])))
            check.that(f"node {i}: hashes are those of the headers", all(keccak(b.header) == b.hash for b in blocks))
            check.that(f"node {i}: no block but genesis is empty",
                       all(len(b.transaction_hashes) > 0 for b in blocks[1:]))
            chains.append([b.hash for b in blocks])
        shortest = min(map(len, chains), default=0)
        check.that(f"the same {shortest} blocks on every node",
                   shortest > 0 and all(c[:shortest] == chains[0][:shortest] for c in chains))

    def refusals(self):
        pb, code = self.pb, grpc.StatusCode

        def submit(raw):
            return lambda: self.call(0, "SubmitTransaction", pb.SubmitTransactionRequest(raw=raw))

        nonce = self.nonce
        self.refused("no bytes", submit(b""), code.INVALID_ARGUMENT)
        self.refused("bytes that are no transaction", submit(b"\x01\x02\x03"), code.INVALID_ARGUMENT)
        self.refused("a foreign chain id", submit(self.signed(nonce, chainId=1)), code.INVALID_ARGUMENT, "chain id")
        broken = bytearray(self.signed(nonce))
        broken[-1:] = b""
        self.refused("a cut transaction", submit(bytes(broken)), code.INVALID_ARGUMENT)
        self.refused("too large a transaction", submit(self.signed(nonce, gas=20_000_000, data=b"\1" * 300_000)),
                     code.RESOURCE_EXHAUSTED, "bytes")
        self.refused("a used nonce", submit(self.signed(0)), code.FAILED_PRECONDITION, "nonce too low")
        self.refused("a nonce far ahead", submit(self.signed(nonce + 10**6)), code.FAILED_PRECONDITION,
                     "nonce too high")
        self.refused("more than one has", submit(self.signed(nonce, value=10**40)), code.FAILED_PRECONDITION,
                     "insufficient funds")
        self.refused("a sender without funds", submit(self.signed(0, signer=Account.create())),
                     code.FAILED_PRECONDITION, "insufficient funds")
        known = self.signed(nonce + 2)
        self.call(0, "SubmitTransaction", pb.SubmitTransactionRequest(raw=known))
        self.refused("the same again", submit(known), code.ALREADY_EXISTS, "known")
        for _ in range(2):
            self.call(0, "SubmitTransaction", pb.SubmitTransactionRequest(raw=self.signed(self.next_nonce())))
        self.next_nonce()
        nobody = b"\x11" * 32
        self.refused("an unknown transaction", lambda: self.call(0, "GetTransaction", pb.GetTransactionRequest(
            hash=nobody)), code.NOT_FOUND)
        self.refused("an unknown receipt", lambda: self.call(0, "GetReceipt", pb.GetReceiptRequest(hash=nobody)),
                     code.NOT_FOUND)
        self.refused("a block that is not yet", lambda: self.call(0, "GetBlock", pb.GetBlockRequest(height=2**40)),
                     code.NOT_FOUND)
        self.refused("a hash of the wrong length", lambda: self.call(0, "GetReceipt", pb.GetReceiptRequest(
            hash=b"\x11")), code.INVALID_ARGUMENT, "32")
        status = self.call(0, "GetTransactionStatus", pb.GetTransactionStatusRequest(hash=nobody))
        self.checks.equal("the status of an unknown transaction", status.state, pb.TransactionStatus.STATE_UNKNOWN)
        # The last ones are on their way; the next run must find the nonce that they leave.
        self.checks.until("what waited is committed", lambda: self.call(
            0, "GetTransactionStatus", pb.GetTransactionStatusRequest(hash=keccak(known))
        ).state == pb.TransactionStatus.STATE_COMMITTED)


def address(text):
    return bytes.fromhex(text[2:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proto", required=True, help="folder that holds quorate/v1/ledger.proto")
    parser.add_argument("--grpc", action="append", required=True, help="host:port of a node; repeat")
    parser.add_argument("--account", type=int, default=4, help="first of the two development accounts to use")
    run = Run(parser.parse_args())
    for step in [run.describe, run.standard_services, run.follow, run.wait, run.stream, run.subscribe, run.refusals]:
        print(f"# {step.__name__}")
        step()
    run.checks.finish()


if __name__ == "__main__":
    main()
