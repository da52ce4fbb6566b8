package reconcile

import (
	"context"
	"fmt"
)

// Keyed is an entry of a list that is ordered by key.
type Keyed interface {
	// Key is unique in its list. Lists are in the order of their keys, byte by byte.
	Key() string
}

// Pages reads a list in key order, page by page: it returns the entries after the given key, which is "" at
// first. An empty page is the end.
type Pages[T Keyed] func(ctx context.Context, after string) ([]T, error)

// Merge walks two lists side by side, holding one page of each, and calls visit once for each key with the
// entries of both lists; nil stands for a missing entry. It stops at the first error of a list or of visit. A
// list that is out of order or has a duplicate key is an error: if Merge continued, it would report existing
// entries as missing.
func Merge[L, R Keyed](ctx context.Context, left Pages[L], right Pages[R], visit func(*L, *R) error) error {
	a, b := walk[L]{load: left}, walk[R]{load: right}
	for {
		l, err := a.head(ctx)
		if err != nil {
			return err
		}
		r, err := b.head(ctx)
		if err != nil {
			return err
		}
		switch {
		case l == nil && r == nil:
			return nil
		case r == nil || (l != nil && (*l).Key() < (*r).Key()):
			r = nil
		case l == nil || (*r).Key() < (*l).Key():
			l = nil
		}
		if err := visit(l, r); err != nil {
			return err
		}
		if l != nil {
			a.page = a.page[1:]
		}
		if r != nil {
			b.page = b.page[1:]
		}
	}
}

// Join merges several lists that have no key in common into one. It reads each list once: callers must ask for
// each page with the last key that was returned.
func Join[T Keyed](lists ...Pages[T]) Pages[T] {
	walks := make([]walk[T], len(lists))
	for i, l := range lists {
		walks[i].load = l
	}
	return func(ctx context.Context, _ string) (page []T, err error) {
		for len(page) < joined {
			var least *walk[T]
			for i := range walks {
				head, err := walks[i].head(ctx)
				if err != nil {
					return nil, err
				}
				if head != nil && (least == nil || (*head).Key() < least.page[0].Key()) {
					least = &walks[i]
				}
			}
			if least == nil {
				break
			}
			page, least.page = append(page, least.page[0]), least.page[1:]
		}
		return page, nil
	}
}

// joined is the length of the pages of [Join].
const joined = 1000

type walk[T Keyed] struct {
	load Pages[T]
	page []T
	last string // key of the last entry loaded
	end  bool
}

// head returns the next entry without consuming it, or nil at the end.
func (w *walk[T]) head(ctx context.Context) (*T, error) {
	if len(w.page) == 0 && !w.end {
		page, err := w.load(ctx, w.last)
		if err != nil {
			return nil, err
		}
		for _, v := range page {
			if v.Key() <= w.last {
				return nil, fmt.Errorf("a list has %s after %s", v.Key(), w.last)
			}
			w.last = v.Key()
		}
		w.page, w.end = page, len(page) == 0
	}
	if w.end {
		return nil, nil
	}
	return &w.page[0], nil
}
