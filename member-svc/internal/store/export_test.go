package store

// SetMaxMatched changes how many sagas a group retry may cover.
func (s *Store) SetMaxMatched(n int) { s.maxMatched = n }
