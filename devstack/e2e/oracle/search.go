package oracle

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Search searches for a text in all files below some folders. It returns the files that hold the text, and how
// many bytes were read. It skips files that are deleted meanwhile.
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

// holds reads a file in pieces. It keeps the end of each piece, to find a text that crosses the border.
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
