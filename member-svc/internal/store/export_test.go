package store

// SetMaxMatched changes how many sagas a retry of a group may be about.
func (s *Store) SetMaxMatched(n int) { s.maxMatched = n }
