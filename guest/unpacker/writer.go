package unpacker

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/guest/proc"
	"github.com/cofferproject/coffer/image/apply"
	"github.com/cofferproject/coffer/image/layerstream"
)

// WriterMain is the writer process's entry point: it shuts itself in its room and
// writes the layers that the coordinator asks for, until the control socket closes or
// one fails.
func WriterMain([]string) int {
	if err := proc.Confine(); err != nil {
		fmt.Fprintln(os.Stderr, WriterName+":", err)
		return 1
	}
	return writeLayers("/")
}

func writeLayers(root string) int {
	c, err := unixConn(os.NewFile(controlFD, "control"))
	if err != nil {
		fmt.Fprintln(os.Stderr, WriterName+":", err)
		return 1
	}
	defer c.Close()
	unix.Umask(0)
	for {
		var j writeJob
		files, err := receive(c, &j)
		if errors.Is(err, io.EOF) {
			return 0
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, WriterName+":", err)
			return 1
		}
		r, err := write(root, &j, files)
		if err != nil {
			r = &reply{Error: err.Error(), Causes: causesOf(mark(err, errUnpack)), PeerGone: errors.Is(err, layerstream.ErrCut)}
		}
		if send(c, r) != nil || err != nil {
			return 1
		}
	}
}

// write makes one layer in a new folder of root.
func write(root string, j *writeJob, files []*os.File) (*reply, error) {
	defer closeAll(files)
	if len(files) != 1 || !filepath.IsLocal(j.Dir) {
		return nil, errors.New("job without a folder or a record pipe")
	}
	dir := filepath.Join(root, j.Dir)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the layer's directory: %w", err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the layer's directory: %w", err)
	}
	defer unix.Close(fd)
	res, err := apply.Layer(files[0], fd, apply.Limits{})
	if err != nil {
		return nil, err
	}
	return &reply{Done: true, Bytes: res.Bytes, Entries: res.Entries, Opaque: res.Opaque}, nil
}
