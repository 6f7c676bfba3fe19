package auditcheck

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cofferproject/coffer/api/auditlog"
)

const (
	maxReceivedLine = 64 << 10
	maxReceived     = 4 << 20 // checkpoints
)

// mark is how a checkpoint begins in a line, whatever a syslog receiver put before it.
const mark = `{"checkpoint":`

// IsReceived reports whether a file is what a witness got, rather than what
// WriteWitness made: lines, of which some hold checkpoints.
func IsReceived(name string) (bool, error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("witness: %w", err)
	}
	defer f.Close()
	b := make([]byte, 2)
	if _, err := io.ReadFull(f, b); err != nil {
		return false, fmt.Errorf("witness %s: %w", name, err)
	}
	return string(b) != "{\n", nil
}

// ReadReceived reads the checkpoints that a witness got, one in a line: bodies of the
// webhook, or a syslog receiver's file, in which other lines are passed over.
func ReadReceived(name string) ([]auditlog.Signed, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	defer f.Close()
	out, err := parseReceived(f)
	if err != nil {
		return nil, fmt.Errorf("witness %s: %w", name, err)
	}
	return out, nil
}

func parseReceived(in io.Reader) (out []auditlog.Signed, err error) {
	seen := map[auditlog.Signed]bool{}
	r := bufio.NewReaderSize(in, maxReceivedLine)
	for n := 1; ; n++ {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, io.EOF) && !bytes.Contains(line, []byte(mark)) {
			break
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		at := bytes.Index(line, []byte(mark))
		if at < 0 {
			continue
		}
		c, perr := parseOne(line[at:])
		if perr != nil {
			if errors.Is(err, io.EOF) {
				break // the receiver is writing it
			}
			return nil, fmt.Errorf("line %d: %w", n, perr)
		}
		if !seen[c] { // it may have come twice
			if len(out) == maxReceived {
				return nil, fmt.Errorf("more than %d checkpoints", maxReceived)
			}
			seen[c] = true
			out = append(out, c)
		}
		if errors.Is(err, io.EOF) {
			break
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no checkpoint in it")
	}
	return out, nil
}

func parseOne(b []byte) (auditlog.Signed, error) {
	var c auditlog.Signed
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return c, err
	}
	rest, err := io.ReadAll(d.Buffered())
	if err != nil || strings.TrimSpace(string(rest)) != "" {
		return c, errors.New("something follows the checkpoint")
	}
	return c, nil
}
