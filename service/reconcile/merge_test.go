package reconcile_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/signup-saga/signup-saga/service/reconcile"
)

type letter string

func (l letter) Key() string { return string(l) }

// pages returns the letters of a text, size at a time.
func pages(text string, size int) reconcile.Pages[letter] {
	return func(_ context.Context, after string) (page []letter, err error) {
		rest := text[strings.Index(text, after)+len(after):]
		for _, r := range rest[:min(size, len(rest))] {
			page = append(page, letter(r))
		}
		return page, nil
	}
}

func TestMergeMeetsEveryKeyOnce(t *testing.T) {
	for _, tc := range []struct{ left, right, want string }{
		{"", "", ""},
		{"abc", "", "a- b- c-"},
		{"", "abc", "-a -b -c"},
		{"abc", "abc", "aa bb cc"},
		{"acdg", "bcefg", "a- -b cc d- -e -f gg"},
		{"z", "abz", "-a -b zz"},
	} {
		for size := 1; size <= 5; size++ {
			var got []string
			show := func(l *letter) string {
				if l == nil {
					return "-"
				}
				return string(*l)
			}
			left, right := pages(tc.left, size), pages(tc.right, 6-size)
			err := reconcile.Merge(t.Context(), left, right, func(l, r *letter) error {
				got = append(got, show(l)+show(r))
				return nil
			})
			if err != nil || strings.Join(got, " ") != tc.want {
				t.Errorf("%s and %s by %d: %q, %v; want %q", tc.left, tc.right, size, got, err, tc.want)
			}
		}
	}
}

func TestMergeEndsWithTheFirstError(t *testing.T) {
	broken := errors.New("broken")
	fails := func(_ context.Context, after string) ([]letter, error) {
		if after == "" {
			return []letter{"a"}, nil
		}
		return nil, broken
	}
	var seen []letter
	collect := func(l, _ *letter) error {
		if l != nil {
			seen = append(seen, *l)
		}
		return nil
	}
	if err := reconcile.Merge(t.Context(), fails, pages("ab", 9), collect); !errors.Is(err, broken) ||
		!slices.Equal(seen, []letter{"a"}) {
		t.Errorf("left: %v after %v", err, seen)
	}
	if err := reconcile.Merge(t.Context(), pages("ab", 9), fails, collect); !errors.Is(err, broken) {
		t.Errorf("right: %v", err)
	}
	if err := reconcile.Merge(t.Context(), pages("ab", 9), pages("ab", 9),
		func(*letter, *letter) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("visit: %v", err)
	}
	for _, disordered := range []string{"ba", "aa"} {
		whole := func(context.Context, string) ([]letter, error) {
			return []letter{letter(disordered[:1]), letter(disordered[1:])}, nil
		}
		if err := reconcile.Merge(t.Context(), whole, pages("", 1), collect); err == nil {
			t.Errorf("%s was taken for ordered", disordered)
		}
	}
}
