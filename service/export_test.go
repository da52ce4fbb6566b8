package service

// MigrateWithPatience is [Migrate], with another limit on how long it asks a server that refuses it.
var MigrateWithPatience = migrate

// Ended exports ended, which [Main] applies to the error of a subcommand.
var Ended = ended

// Unreadable exports unreadable, because a test may run as root, who can read everything.
var Unreadable = unreadable
