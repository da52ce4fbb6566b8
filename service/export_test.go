package service

// MigrateWithLimit is [Migrate], with another limit on how long it asks a server that refuses it.
var MigrateWithLimit = migrate

// WaitMigrated exports waitMigrated.
var WaitMigrated = waitMigrated

// Ended exports ended, which [Main] applies to the error of a subcommand.
var Ended = ended

// Unreadable exports unreadable, because a test may run as root, who can read everything.
var Unreadable = unreadable

// ParseTokens returns the tokens of a file with this text.
func ParseTokens(text string) (*Tokens, error) {
	list, err := parseTokens(text)
	return &Tokens{list: func() []token { return list }, file: true}, err
}
