"""What has to hold. Owns the list of what did not, and what was counted on the way; judges nothing by itself."""

import collections
import sys
import time

# The same failure again and again says nothing new.
SHOWN_OF_A_CLAIM_MAX = 5


class Claims:
    """Collects failures: a long run goes on after one, so that it shows what else there is."""

    def __init__(self):
        self.started = time.monotonic()
        self.failures = collections.Counter()
        self.counts = collections.Counter()

    def fail(self, claim, detail=""):
        """Records that a claim does not hold."""
        self.failures[claim] += 1
        if self.failures[claim] <= SHOWN_OF_A_CLAIM_MAX:
            at_seconds = time.monotonic() - self.started
            what = f"{claim}: {detail}" if detail else claim
            print(f"FAILED after {at_seconds:.0f} s: {what}", file=sys.stderr, flush=True)

    def check(self, holds, claim, detail=""):
        """Records a claim that does not hold; says whether it does."""
        if not holds:
            self.fail(claim, detail)
        return holds

    def count(self, what, number=1):
        """Counts what the summary tells of."""
        self.counts[what] += number
