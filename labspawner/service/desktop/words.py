"""What this service says, beside what providers say."""

from __future__ import annotations

from labspawner.sentences import Sentence

HUB_AWAY = Sentence("The hub does not answer just now; it may be restarting. This page tries again by itself.")
LOG_IN = Sentence("You are logged out. Load this page again.")
NOT_SAME_SITE = Sentence("This page was opened from another site, so it is not answered.")
TOKEN_IN_URL = Sentence("A token does not belong into an address. Send it as a header.")
TOO_LATE = Sentence("The console was not opened in time. It is tried again.")
NO_SERVER = Sentence("No server is running, so there is nothing to agree to.")
UNREADABLE = Sentence("This request cannot be read.")
BROKEN = Sentence("Something went wrong on our side. Try again; if it happens twice, tell your instructor.")
NO_PAGE = Sentence("There is nothing here. Open the desktop from your server's card.")
FORGED = Sentence("This form is too old, or was made by somebody else. Load the page again.")
NOT_LET_IN = Sentence("You may not use desktops on this hub. Tell your administrator.")
