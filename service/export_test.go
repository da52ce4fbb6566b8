package service

// MigrateWithPatience is [Migrate], but for how long it lets itself be refused.
var MigrateWithPatience = migrate

// Ended is what [Main] makes of the error of a subcommand.
var Ended = ended

// Unreadable is unreadable, for a test that may run as root, who can read everything.
var Unreadable = unreadable
