"""What schemathesis is told besides the document: ids of what is there, and what it must leave alone."""

import os

import schemathesis

KEY = os.environ["CONTRACT_KEY"].split("_")[1]
# Takes every event, and is only looked at.
KEPT = os.environ["CONTRACT_KEPT"]
THERE = {
    "id": int(os.environ["CONTRACT_CHANGED"]),
    "event_id": os.environ["CONTRACT_EVENT"],
    "delivery_id": os.environ["CONTRACT_DELIVERY"],
    "replay_id": int(os.environ["CONTRACT_REPLAY"]),
    "prefix": os.environ["CONTRACT_PREFIX"],
}
MISSING = {"id": 999_999_999, "prefix": "0000000000"}


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """Puts what is there in place of the examples for path parameters."""
    parameters = raw_schema["components"]["parameters"]
    for path, item in raw_schema["paths"].items():
        for parameter in item.get("parameters", []):
            if "$ref" in parameter:
                parameter.update(parameters[parameter.pop("$ref").rsplit("/", 1)[1]])
            if parameter["name"] in THERE:
                parameter["example"] = THERE[parameter["name"]]
            if path == "/ingest/{id}":
                parameter["example"] = int(KEPT)


@schemathesis.hook
def before_call(context, case, kwargs):
    """Lets what would end the key or the subscriptions of this run go to missing ones, which is documented, too."""
    given = case.path_parameters or {}
    ends_key = case.method == "DELETE" and str(given.get("prefix")) == KEY
    ends_subscription = case.method == "DELETE" and str(given.get("id")) == str(THERE["id"])
    changes_kept = case.method != "GET" and case.operation.path != "/ingest/{id}" and str(given.get("id")) == KEPT
    if ends_key:
        given["prefix"] = MISSING["prefix"]
    if ends_subscription or changes_kept:
        given["id"] = MISSING["id"]
