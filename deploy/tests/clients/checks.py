"""How the Python clients of this folder check and report."""

import sys
import time

# The well-known development mnemonic; its accounts are funded in every test consortium.
MNEMONIC = "test test test test test test test test test test test junk"
PATIENCE_SECONDS = 60


def account(index):
    """The development account number `index`."""
    from eth_account import Account

    Account.enable_unaudited_hdwallet_features()
    return Account.from_mnemonic(MNEMONIC, account_path=f"m/44'/60'/0'/0/{index}")


class Checks:
    """Prints each check as it is made; `finish` ends the process with 0 only if every one held."""

    def __init__(self):
        self.passed = 0
        self.failed = []

    def that(self, what, held, detail=""):
        if held:
            self.passed += 1
            print(f"ok      {what}", flush=True)
        else:
            self.failed.append(what)
            print(f"FAILED  {what}: {detail}", flush=True)

    def equal(self, what, got, expected):
        self.that(what, got == expected, f"got {got!r}, expected {expected!r}")

    def refused(self, what, action, *words):
        """`action` must raise, and the message must hold one of `words`."""
        try:
            got = action()
        except Exception as e:  # noqa: BLE001: every client has its own types; the message is what users see
            text = str(e).lower()
            self.that(what, any(word in text for word in words), f"the message was {e!r}")
            return e
        self.that(what, False, f"not refused, returned {got!r}")
        return None

    def until(self, what, probe):
        """Waits until `probe` gives something; that is a check of its own."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            value = probe()
            if value:
                self.that(what, True)
                return value
            time.sleep(0.02)
        self.that(what, False, f"not within {PATIENCE_SECONDS} s")
        self.finish()

    def finish(self):
        print(f"{self.passed} checks held, {len(self.failed)} failed", flush=True)
        sys.exit(1 if self.failed or self.passed == 0 else 0)
