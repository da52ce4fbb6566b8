// Package guards tests the tests: a guard is a piece of code that a promise depends on, and without it a test fails.
//
// Each folder lists the guards of its code in guards.txt. A guard is a block of lines; blank lines separate blocks, and
// a line that begins with # is a comment:
//
//	guard: a token expires
//	file: tokens.go
//	test: TestTokensExpire in service
//	- case reason == "" && found.expired():
//	+ case false:
//
// The file is in or below the folder. The test is in the folder's package, or in that of the folder after "in", as seen
// from the root of the repository. The lines after "- " are a text that occurs once in the file, and the lines after
// "+ " are what it becomes without the guard. Nothing is escaped, and white space counts.
//
// TestGuardsNameTheirCode holds the lists to the code. TestEveryGuardIsNeeded, which make verify runs, removes one
// guard at a time and runs its test.
package guards
