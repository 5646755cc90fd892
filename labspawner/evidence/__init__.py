"""What is known of the use of each server, kept by the hub process: reports from inside, looks at the host, wishes.

The extension in each server reports; `EvidenceBook` remembers, answers when the server ends as things are, and writes
behind to the store, where the culler reads it. `Sampler` adds what the hosts measure.
"""

from __future__ import annotations

from labspawner.evidence.answers import every_s
from labspawner.evidence.book import EvidenceBook, HubFacts, Refused
from labspawner.evidence.report import BadReport, parse_hold, parse_report
from labspawner.evidence.sampler import Sampler

__all__ = ["BadReport", "EvidenceBook", "HubFacts", "Refused", "Sampler", "every_s", "parse_hold", "parse_report"]
