package unpacker

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/image/reference"
	"github.com/cofferproject/coffer/image/registry"
	"github.com/cofferproject/coffer/image/unpack"
)

// The control sockets carry frames: 4 bytes of length (little endian), then
// JSON. A job's frame also carries the files it needs.

// Bounds of a frame: a manifest and a config, in base64, and a little.
const (
	maxFrame   = 4*2*manifest.MaxSize/3 + 1<<20
	maxJobFile = 2
)

// Operations of a job.
const (
	opResolve = "resolve" // fetch manifest and config
	opLayer   = "layer"   // pull, decrypt, parse one layer; files: record pipe, key socket if encrypted
)

// job is what the coordinator asks of a parser.
type job struct {
	Op        string              `json:"op"`
	Ref       reference.Reference `json:"ref"`
	Config    registry.Config     `json:"config"`
	Now       int64               `json:"now"` // unix seconds; 0: the system's clock
	OnlyFloor bool                `json:"only_floor,omitempty"`

	What     string               `json:"what,omitempty"` // "layer 2 of 5"
	Layer    *manifest.Descriptor `json:"layer,omitempty"`
	DiffID   string               `json:"diff_id,omitempty"`
	Limits   unpack.Limits        `json:"limits,omitzero"`
	Manifest []byte               `json:"manifest,omitempty"` // shown to the key holder
}

// reply is what a parser or writer answers. Progress replies come any number of
// times before the last, which has Done or Error.
type reply struct {
	Progress int64             `json:"progress,omitempty"` // bytes of the blob so far
	Done     bool              `json:"done,omitempty"`
	Manifest []byte            `json:"manifest,omitempty"`
	Config   []byte            `json:"config,omitempty"`
	Tokens   map[string]string `json:"tokens,omitempty"`
	Bytes    int64             `json:"bytes,omitempty"` // unpacked
	Entries  int64             `json:"entries,omitempty"`
	Times    *Times            `json:"times,omitempty"`
	Opaque   []string          `json:"opaque,omitempty"` // writer: apply.Result

	Error    string         `json:"error,omitempty"`
	Causes   []cause        `json:"causes,omitempty"` // of Error, as the host may know them
	Denial   *denial.Denial `json:"denial,omitempty"`
	BadHost  string         `json:"bad_host,omitempty"`  // gave bytes of another digest
	PeerGone bool           `json:"peer_gone,omitempty"` // the other half ended first: its error is the cause
}

// send writes one frame with files.
func send(c *net.UnixConn, v any, files ...*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("writing message: %w", err)
	}
	if len(b) > maxFrame {
		return fmt.Errorf("writing message of %d bytes: more than %d", len(b), maxFrame)
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	hdr := binary.LittleEndian.AppendUint32(nil, uint32(len(b)))
	if _, _, err := c.WriteMsgUnix(hdr, oob, nil); err != nil {
		return err
	}
	_, err = c.Write(b)
	clear(b) // it can hold registry credentials
	return err
}

// receive reads one frame and the files that came with it. io.EOF means that
// the peer is gone.
func receive(c *net.UnixConn, v any) ([]*os.File, error) {
	hdr, oob := make([]byte, 4), make([]byte, unix.CmsgSpace(4*maxJobFile))
	n, oobn, _, _, err := c.ReadMsgUnix(hdr, oob)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	files, err := rights(oob[:oobn])
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c, hdr[n:]); err != nil {
		closeAll(files)
		return nil, err
	}
	size := binary.LittleEndian.Uint32(hdr)
	if size > maxFrame {
		closeAll(files)
		return nil, fmt.Errorf("message of %d bytes: more than %d", size, maxFrame)
	}
	b := make([]byte, size)
	if _, err = io.ReadFull(c, b); err == nil {
		err = json.Unmarshal(b, v)
		clear(b)
	}
	if err != nil {
		closeAll(files)
		return nil, err
	}
	return files, nil
}

func rights(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			closeAll(files)
			return nil, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "job"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}

// socketpair gives the coordinator's connection and the child's file.
func socketpair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "control")
	ours, err := unixConn(os.NewFile(uintptr(fds[0]), "control"))
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// unixConn turns a file into a connection and closes the file.
func unixConn(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("control socket is a %T", c)
	}
	return u, nil
}
