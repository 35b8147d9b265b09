package projection

// Backoff is how long an event that cannot be applied waits.
var Backoff = backoff
