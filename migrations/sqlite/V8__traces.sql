-- The trace that a delivery belongs to: `traceparent`, a space and `tracestate`, as its producer sent them. Of what was
-- fanned out it is with the event. NULL, which costs nothing, for what belongs to none.
ALTER TABLE deliveries ADD COLUMN trace text;
ALTER TABLE events ADD COLUMN trace text;
