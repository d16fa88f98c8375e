"""Verifies deliveries with libraries that others wrote: v1 with standardwebhooks, v1a with PyNaCl.

Reads one JSON object a line, {headers, body, secret?, public_key?, now?}, and answers each with {v1?, v1a?}: "ok", or why
not. `now` moves the clock that the library reads, in seconds since the Unix epoch; nothing else of it is changed.
"""

import base64
import json
import sys
from datetime import datetime

import nacl.exceptions
import nacl.signing
import standardwebhooks.webhooks as webhooks


def moved_to(now):
    class Moved(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.fromtimestamp(now, tz)

    return Moved


def v1(delivery):
    webhooks.datetime = moved_to(delivery["now"]) if "now" in delivery else datetime
    try:
        webhooks.Webhook(delivery["secret"]).verify(delivery["body"], delivery["headers"], json_parse=False)
    except webhooks.WebhookVerificationError as error:
        return str(error)
    return "ok"


def v1a(delivery):
    headers = delivery["headers"]
    key = nacl.signing.VerifyKey(base64.b64decode(delivery["public_key"].removeprefix("whpk_")))
    message = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{delivery['body']}".encode()
    for signature in headers["webhook-signature"].split(" "):
        if signature.startswith("v1a,"):
            try:
                key.verify(message, base64.b64decode(signature.removeprefix("v1a,")))
            except nacl.exceptions.BadSignatureError as error:
                return str(error)
            return "ok"
    return "there is no v1a signature"


for line in sys.stdin:
    delivery = json.loads(line)
    answer = {}
    if "secret" in delivery:
        answer["v1"] = v1(delivery)
    if "public_key" in delivery:
        answer["v1a"] = v1a(delivery)
    print(json.dumps(answer), flush=True)
