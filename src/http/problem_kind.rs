//! The kinds of problems: their stable names, their statuses, and what to do about each.

/// The stable kinds of problems. The name is the last word of `type`, and the label in the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    InvalidJson,
    InvalidField,
    InvalidParameter,
    BodyNotRead,
    AmbiguousLength,
    KeyMissing,
    KeyWrong,
    SignatureMissing,
    SignatureWrong,
    NotAllowed,
    ForeignOrigin,
    NotSubscribed,
    SubscriptionNotFound,
    SecretNotFound,
    PublicKeyNotFound,
    DeliveryNotFound,
    EventNotFound,
    ReplayNotFound,
    KeyNotFound,
    PageNotFound,
    MethodNotAllowed,
    BodyTimeout,
    SubscriptionDisabled,
    SubscriptionDeleted,
    ReplayRunning,
    ChangedMeanwhile,
    QuotaExceeded,
    TooManySecrets,
    KeyReused,
    PayloadGone,
    PayloadTooLarge,
    TooManyDeliveries,
    NoMasterKey,
    BacklogFull,
    Internal,
    Busy,
    StoreUnavailable,
    SecretLocked,
    NotReady,
}

impl Kind {
    /// All of them, for the documentation.
    pub const ALL: [Self; 39] = [
        Self::InvalidJson,
        Self::InvalidField,
        Self::InvalidParameter,
        Self::BodyNotRead,
        Self::AmbiguousLength,
        Self::KeyMissing,
        Self::KeyWrong,
        Self::SignatureMissing,
        Self::SignatureWrong,
        Self::NotAllowed,
        Self::ForeignOrigin,
        Self::NotSubscribed,
        Self::SubscriptionNotFound,
        Self::SecretNotFound,
        Self::PublicKeyNotFound,
        Self::DeliveryNotFound,
        Self::EventNotFound,
        Self::ReplayNotFound,
        Self::KeyNotFound,
        Self::PageNotFound,
        Self::MethodNotAllowed,
        Self::BodyTimeout,
        Self::SubscriptionDisabled,
        Self::SubscriptionDeleted,
        Self::ReplayRunning,
        Self::ChangedMeanwhile,
        Self::QuotaExceeded,
        Self::TooManySecrets,
        Self::KeyReused,
        Self::PayloadGone,
        Self::PayloadTooLarge,
        Self::TooManyDeliveries,
        Self::NoMasterKey,
        Self::BacklogFull,
        Self::Internal,
        Self::Busy,
        Self::StoreUnavailable,
        Self::SecretLocked,
        Self::NotReady,
    ];

    /// The last word of `type`, the status, the title.
    fn spec(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::InvalidJson => ("invalid-json", 400, "The body is not JSON"),
            Self::InvalidField => ("invalid-field", 400, "A field of the body is not as expected"),
            Self::InvalidParameter => ("invalid-parameter", 400, "A header or query parameter is not as expected"),
            Self::BodyNotRead => ("body-not-read", 400, "The body ended before its announced end"),
            Self::AmbiguousLength => ("ambiguous-length", 400, "The request names its length twice"),
            Self::KeyMissing => ("key-missing", 401, "The API key is missing"),
            Self::KeyWrong => ("key-wrong", 401, "The API key is not valid"),
            Self::SignatureMissing => ("signature-missing", 401, "The signature is missing"),
            Self::SignatureWrong => ("signature-wrong", 401, "The signature does not match"),
            Self::NotAllowed => ("not-allowed", 403, "The API key does not allow this"),
            Self::ForeignOrigin => ("foreign-origin", 403, "Pages of other origins may not change anything here"),
            Self::NotSubscribed => ("event-type-not-subscribed", 403, "The subscription does not take this event type"),
            Self::SubscriptionNotFound => ("subscription-not-found", 404, "There is no such subscription"),
            Self::SecretNotFound => ("secret-not-found", 404, "The subscription has no secret"),
            Self::PublicKeyNotFound => ("public-key-not-found", 404, "The subscription has no public key"),
            Self::DeliveryNotFound => ("delivery-not-found", 404, "There is no such delivery"),
            Self::EventNotFound => ("event-not-found", 404, "There is no such event"),
            Self::ReplayNotFound => ("replay-not-found", 404, "There is no such replay"),
            Self::KeyNotFound => ("key-not-found", 404, "There is no such API key"),
            Self::PageNotFound => ("page-not-found", 404, "There is nothing at this path"),
            Self::MethodNotAllowed => ("method-not-allowed", 405, "This path does not take this method"),
            Self::BodyTimeout => ("body-timeout", 408, "The body did not arrive in time"),
            Self::SubscriptionDisabled => ("subscription-disabled", 409, "The subscription is disabled"),
            Self::SubscriptionDeleted => ("subscription-deleted", 409, "The subscription was deleted"),
            Self::ReplayRunning => ("replay-running", 409, "A replay of the subscription runs already"),
            Self::ChangedMeanwhile => ("changed-meanwhile", 409, "Others changed the subscription at the same time"),
            Self::QuotaExceeded => ("quota-exceeded", 409, "There are as many as there may be"),
            Self::TooManySecrets => ("too-many-secrets", 409, "As many secrets count already as may"),
            Self::KeyReused => ("idempotency-key-reused", 409, "The key was used with another request"),
            Self::PayloadGone => ("payload-gone", 410, "The payload is not kept any more"),
            Self::PayloadTooLarge => ("payload-too-large", 413, "The body is larger than is accepted"),
            Self::TooManyDeliveries => {
                ("too-many-deliveries", 422, "More subscriptions want it than can take one event")
            }
            Self::NoMasterKey => ("no-master-key", 422, "This service has no master key to keep secrets under"),
            Self::BacklogFull => ("backlog-full", 429, "The subscription's backlog is full"),
            Self::Internal => ("internal", 500, "Something went wrong on our side"),
            Self::Busy => ("busy", 503, "This node is at its limit"),
            Self::StoreUnavailable => ("store-unavailable", 503, "The store is unavailable"),
            Self::SecretLocked => ("secret-locked", 503, "The subscription's secret cannot be opened"),
            Self::NotReady => ("not-ready", 503, "This node is not ready"),
        }
    }

    /// What to do about it: `GET /problems/{name}` shows this.
    pub fn advice(self) -> &'static str {
        match self {
            Self::InvalidJson => {
                "Send one JSON value in UTF-8, nested at most 128 deep. The answer says where it stops."
            }
            Self::InvalidField => "Correct the fields listed under `errors`; each says what was found and expected.",
            Self::InvalidParameter => "Correct the headers or query parameters listed under `errors`.",
            Self::BodyNotRead => "Send as many bytes as Content-Length says, or end the last chunk. Then try again.",
            Self::AmbiguousLength => {
                "Send one Content-Length, or Transfer-Encoding: chunked, not both. A proxy that adds the other must not."
            }
            Self::KeyMissing => {
                "Send Authorization: Bearer and an API key. Who operates the service makes one with hookpost keys create or \
                 POST /keys."
            }
            Self::KeyWrong => {
                "Send a key of this service, whole, as Authorization: Bearer hp_…. It may have been revoked or have expired: \
                 who operates the service sees that with hookpost keys list. A new key counts everywhere within a second."
            }
            Self::SignatureMissing => {
                "The subscription has a secret. Send X-Hub-Signature-256: sha256=<hex of HMAC-SHA256 over the body, \
                 keyed with the secret>."
            }
            Self::SignatureWrong => "Sign the exact bytes that are sent, with the subscription's current secret.",
            Self::NotAllowed => "Use a key of a role that the answer names, or ask for one.",
            Self::ForeignOrigin => "Call the API from a program, or from a page that this server itself serves.",
            Self::NotSubscribed => "Send a type that the subscription names, or add this one to its event_type.",
            Self::SubscriptionNotFound => "Look the id up with GET /subscriptions. It may have been deleted.",
            Self::SecretNotFound => "POST /subscriptions/{id}/secret/rotate gives it one.",
            Self::PublicKeyNotFound => {
                "PATCH /subscriptions/{id} with {\"ed25519\": true} makes a key: deliveries are then signed with v1a, too."
            }
            Self::DeliveryNotFound => {
                "Use the delivery_id of the answer to POST /ingest/{id}. Deliveries are forgotten after the retention."
            }
            Self::EventNotFound => {
                "Use the event_id of the answer to POST /events. Events are forgotten after the retention. What came in \
                 through POST /ingest/{id} is a delivery: ask GET /status/{delivery_id}."
            }
            Self::ReplayNotFound => {
                "Look the id up with GET /subscriptions/{id}/replays. Replays are forgotten after the retention."
            }
            Self::KeyNotFound => {
                "Look the prefix up with GET /keys. Keys that have been dead for months are forgotten."
            }
            Self::PageNotFound => "See /docs for all paths.",
            Self::MethodNotAllowed => "Use one of the methods in the Allow header.",
            Self::BodyTimeout => "Send the whole body without pauses; nothing of it was kept. Then try again.",
            Self::SubscriptionDisabled => {
                "GET /subscriptions/{id}/changes says since when and why. POST /subscriptions/{id}/enable enables it again, \
                 and delivers or drops what waited."
            }
            Self::SubscriptionDeleted => {
                "Create a subscription for the same target and send the event again: deliveries belong to the subscription that \
                 they were made for."
            }
            Self::ReplayRunning => {
                "Nothing was started. Wait for the replay that the answer names, or cancel it; there is one at a time, so that \
                 nothing is sent again twice at once."
            }
            Self::ChangedMeanwhile => {
                "Nothing was changed. Look at the subscription again, and repeat what is still wanted."
            }
            Self::QuotaExceeded => {
                "Nothing was stored. Delete what is not used any more, or have the limit that the answer names raised."
            }
            Self::TooManySecrets => {
                "Nothing was changed. Wait until the first of them ends, which the answer names, or rotate with {\"overlap_s\": 0}, \
                 which ends all of them at once: receivers that have one of those then verify nothing any more."
            }
            Self::KeyReused => {
                "Give every request an Idempotency-Key of its own, and send a request again with the same key only if it \
                 is the same. Nothing was stored of this one."
            }
            Self::PayloadGone => {
                "It cannot be sent again from here. Its producer can send the event again. HOOKPOST_RETENTION sets how long is kept."
            }
            Self::PayloadTooLarge => "Send a smaller body, for example one with a reference to the data.",
            Self::TooManyDeliveries => {
                "Nothing was stored. Let fewer subscriptions want this type, for example by narrower event types, or \
                 divide them among tenants."
            }
            Self::NoMasterKey => {
                "Nothing was changed. Whoever runs the service sets HOOKPOST_MASTER_KEY (`hookpost keys new-master` makes one); \
                 for development, `hookpost serve --dev` does without."
            }
            Self::BacklogFull => {
                "Nothing was stored. Send it again after Retry-After, which is about when the receiver will have made room. \
                 GET /subscriptions/{id}/state says what holds it up; max_backlog sets the limit."
            }
            Self::Internal => "The log of the service says more. Trying again may not help.",
            Self::Busy => "Nothing was stored. Try again after Retry-After, with less at the same time.",
            Self::StoreUnavailable => "Try again after Retry-After. Sending an event twice is safe for the service.",
            Self::SecretLocked => {
                "Nothing was stored. Whoever runs the service adds the master key that the answer names to HOOKPOST_MASTER_KEY. \
                 Where it is lost, a new secret (PATCH /subscriptions/{id}) takes the place of the old one."
            }
            Self::NotReady => "Wait; send events to another node meanwhile.",
        }
    }

    pub fn name(self) -> &'static str {
        self.spec().0
    }

    pub fn status(self) -> u16 {
        self.spec().1
    }

    pub fn title(self) -> &'static str {
        self.spec().2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kinds_are_unique() {
        let mut names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Kind::ALL.len());
    }
}
