package oracle

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Search looks for a text in all files below some folders, and returns those that hold it and how many bytes were read.
// A file that goes away meanwhile is passed over.
func Search(text string, folders ...string) (found []string, searched int64, err error) {
	for _, folder := range folders {
		err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || (err == nil && !entry.Type().IsRegular()) {
				return nil
			}
			if err != nil {
				return err
			}
			n, held, err := holds(path, []byte(text))
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if searched += n; held {
				found = append(found, path)
			}
			return err
		})
		if err != nil {
			return found, searched, err
		}
	}
	return found, searched, nil
}

// holds reads a file piece by piece; the end of each is kept for a text that goes across.
func holds(path string, text []byte) (read int64, held bool, err error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, false, err
	}
	defer file.Close()
	piece := make([]byte, 1<<20)
	kept := 0
	for {
		n, err := file.Read(piece[kept:])
		read += int64(n)
		have := piece[:kept+n]
		if bytes.Contains(have, text) {
			return read, true, nil
		}
		kept = copy(piece, have[max(0, len(have)-len(text)+1):])
		if errors.Is(err, io.EOF) {
			return read, false, nil
		}
		if err != nil {
			return read, false, err
		}
	}
}
