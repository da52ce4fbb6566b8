package outbox

// Migrate prepares a database with the lane "essential". It is exported for the examples.
var Migrate = migrate
