package loadgen

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// A Journal is the append-only file of what buyers were promised: a line of key, order and status, parted by tabs.
// It is safe for concurrent use.
type Journal struct {
	mu sync.Mutex
	f  *os.File
}

// OpenJournal opens the file, or makes it. A last line that was cut off by a crash is ended, so that it cannot
// run into the next one.
func OpenJournal(path string) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("loadgen: journal: %w", err)
	}
	j := &Journal{f: f}
	if err := j.endLine(); err != nil {
		return nil, errors.Join(fmt.Errorf("loadgen: journal: %w", err), f.Close())
	}
	return j, nil
}

func (j *Journal) endLine() error {
	end, err := j.f.Seek(0, io.SeekEnd)
	if err != nil || end == 0 {
		return err
	}
	var last [1]byte
	if _, err := j.f.ReadAt(last[:], end-1); err != nil {
		return err
	}
	if last[0] == '\n' {
		return nil
	}
	_, err = j.f.WriteString("\n")
	return err
}

// Promise notes an answer. It is in the file, for every process that reads it, when Promise returns.
func (j *Journal) Promise(key, order string, status int) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := fmt.Fprintf(j.f, "%s\t%s\t%d\n", key, order, status); err != nil {
		return fmt.Errorf("loadgen: journal: %w", err)
	}
	return nil
}

// Close flushes the file to the disk and closes it.
func (j *Journal) Close() error { return errors.Join(j.f.Sync(), j.f.Close()) }
