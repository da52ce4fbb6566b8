package service

// MigrateWithPatience is [Migrate], but for how long it lets itself be refused.
var MigrateWithPatience = migrate
