package outbox

// Migrate prepares a database with the lane "essential", for the examples.
var Migrate = migrate
