"""What the console says, beside what courses and the hub say."""

from __future__ import annotations

from labspawner.sentences import Sentence

HUB_AWAY = Sentence(
    "The hub does not answer just now; it may be restarting. Nothing was changed. Try again in a minute."
)
LOG_IN = Sentence("You are logged out. Log in, then try again.")
NO_TOKEN = Sentence("Send a token of the hub as a header: Authorization: token ...")
BAD_TOKEN = Sentence("This token is not one of this hub's, or it has expired. Make a new one on the hub's token page.")
TOKEN_IN_URL = Sentence(
    "A token does not belong into an address, where logs keep it. Take it back, and send a new one as a header."
)
NOT_LET_IN = Sentence("You may not use the console of this hub. Tell your administrator.")
FORGED = Sentence("This form is too old, or was made by somebody else. Load the page again.")
NO_PAGE = Sentence("There is nothing here. The address may be mistyped, or what was here has been taken away.")
NO_METHOD = Sentence("This cannot be done at this address.")
UNREADABLE = Sentence("This request cannot be read.")
BROKEN = Sentence("Something went wrong on our side. Try again; if it happens twice, tell your administrator.")
TOO_LARGE = Sentence("This is too large: at most 256 KiB are taken at once.")
NO_COURSE = Sentence("There is no course {course}, or it is not yours.")
NEEDS_JSON = Sentence("Send this as JSON, with the header Content-Type: application/json.")
NEEDS_MATCH = Sentence("Send the ETag that you read as the header If-Match, so that nobody's change is lost.")
NO_PROFILE = Sentence("This course has no profile {profile}.")
TOO_MANY_STREAMS = Sentence("Too many pages of yours are open. Close some, then load this one again.")
FILE_COURSE = Sentence("This course stands in the file {file}. Change it there; the hub reads it within seconds.")
HUBS_COURSE = Sentence(
    "This course stands in the hub's configuration, in {file}. An administrator changes it there; the hub reads it when it "
    "is started again."
)
ROSTER_STALE = Sentence("The roster was changed since you looked at it. Look at it again, then decide.")

TITLES = {
    400: Sentence("This request cannot be understood"),
    401: Sentence("Please log in"),
    403: Sentence("This is not yours to open"),
    404: Sentence("There is nothing here"),
    405: Sentence("This cannot be done here"),
    409: Sentence("Something stands in the way"),
    412: Sentence("Somebody else changed this"),
    413: Sentence("This is too large"),
    415: Sentence("This is of another kind"),
    422: Sentence("This cannot be used as it is"),
    428: Sentence("Say what you read"),
    429: Sentence("Too much at once"),
    500: Sentence("Something went wrong on our side"),
    503: Sentence("Not available just now"),
}
