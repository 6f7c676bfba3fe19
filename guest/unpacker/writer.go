package unpacker

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/guest/proc"
	"github.com/cofferproject/coffer/image/apply"
	"github.com/cofferproject/coffer/image/layerstream"
)

// WriterMain is the writer process's entry point: it shuts itself in the layer's
// directory, writes one layer and ends.
func WriterMain([]string) int {
	if err := proc.Confine(); err != nil {
		fmt.Fprintln(os.Stderr, WriterName+":", err)
		return 1
	}
	return writeLayer("/")
}

func writeLayer(root string) int {
	c, err := unixConn(os.NewFile(controlFD, "control"))
	if err != nil {
		fmt.Fprintln(os.Stderr, WriterName+":", err)
		return 1
	}
	defer c.Close()
	unix.Umask(0)
	r, err := write(root, os.NewFile(pipeFD, "records"))
	if err != nil {
		r = &reply{Error: err.Error(), Causes: causesOf(mark(err, errUnpack)), PeerGone: errors.Is(err, layerstream.ErrCut)}
	}
	if send(c, r) != nil || err != nil {
		return 1
	}
	return 0
}

func write(root string, records *os.File) (*reply, error) {
	defer records.Close()
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the layer's directory: %w", err)
	}
	defer unix.Close(fd)
	res, err := apply.Layer(records, fd, apply.Limits{})
	if err != nil {
		return nil, err
	}
	return &reply{Done: true, Bytes: res.Bytes, Entries: res.Entries, Opaque: res.Opaque}, nil
}
