-- What was made to send a delivery again, in order. What is no resend is not in it.
CREATE INDEX deliveries_resends ON deliveries (resend_of, id) WHERE resend_of IS NOT NULL;
