package container

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// The agent and a container's init speak over a stream socket pair in frames:
// 4 bytes little-endian length, then JSON. Both ends are this binary.

// maxFrame bounds one frame: a policy's largest argument list and environment.
const maxFrame = 8 << 20

// report is what the init process says; with a terminal its descriptor comes along.
type report struct {
	State string `json:"state"` // "ready" or "failed"
	Error string `json:"error,omitempty"`
	// Missing says that the failure is a command that does not exist (exit code 127).
	Missing bool `json:"missing,omitempty"`
	// Identity is who the container runs as, resolved from the untouched image.
	Identity *identity `json:"identity,omitempty"`
}

// execRequest is what the helper of ExecProcess gets.
type execRequest struct {
	Process  Process
	Identity identity
}

// socket is one end of the pair, blocking.
type socket struct{ f *os.File }

func (s socket) send(v any, fd int) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding frame: %w", err)
	}
	if len(b) > maxFrame {
		return fmt.Errorf("frame of %d bytes, at most %d", len(b), maxFrame)
	}
	head := binary.LittleEndian.AppendUint32(nil, uint32(len(b)))
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	if err := s.sendmsg(head, oob); err != nil {
		return err
	}
	for len(b) > 0 {
		n, err := s.f.Write(b)
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (s socket) sendmsg(b, oob []byte) error {
	rc, err := s.f.SyscallConn()
	if err != nil {
		return err
	}
	var werr error
	err = rc.Write(func(fd uintptr) bool {
		_, werr = unix.SendmsgN(int(fd), b, oob, nil, unix.MSG_NOSIGNAL)
		return !errors.Is(werr, unix.EAGAIN)
	})
	return errors.Join(err, werr)
}

// receive reads one frame and the descriptor that came with it (-1 for none).
// io.EOF before the first byte means that the peer has closed.
func (s socket) receive(v any) (int, error) {
	head := make([]byte, 4)
	oob := make([]byte, unix.CmsgSpace(4))
	rc, err := s.f.SyscallConn()
	if err != nil {
		return -1, err
	}
	var n, oobn int
	var rerr error
	err = rc.Read(func(fd uintptr) bool {
		for {
			n, oobn, _, _, rerr = unix.Recvmsg(int(fd), head, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_WAITALL)
			if !errors.Is(rerr, unix.EINTR) {
				break
			}
		}
		return !errors.Is(rerr, unix.EAGAIN)
	})
	if err := errors.Join(err, rerr); err != nil {
		return -1, err
	}
	if n == 0 {
		return -1, io.EOF
	}
	fd := -1
	if oobn > 0 {
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return -1, fmt.Errorf("control message: %w", err)
		}
		for i := range msgs {
			fds, err := unix.ParseUnixRights(&msgs[i])
			if err != nil {
				return -1, fmt.Errorf("control message: %w", err)
			}
			for _, f := range fds {
				if fd < 0 {
					fd = f
				} else {
					unix.Close(f)
				}
			}
		}
	}
	fail := func(err error) (int, error) {
		if fd >= 0 {
			unix.Close(fd)
		}
		return -1, err
	}
	if n < 4 {
		if _, err := io.ReadFull(s.f, head[n:]); err != nil {
			return fail(io.ErrUnexpectedEOF)
		}
	}
	size := binary.LittleEndian.Uint32(head)
	if size > maxFrame {
		return fail(fmt.Errorf("frame of %d bytes, at most %d", size, maxFrame))
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(s.f, b); err != nil {
		return fail(io.ErrUnexpectedEOF)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fail(fmt.Errorf("decoding frame: %w", err))
	}
	return fd, nil
}

// socketPair makes both ends: the agent's, pollable, and the child's, blocking.
func socketPair() (agent socket, child *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return socket{}, nil, fmt.Errorf("making socket pair: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return socket{}, nil, fmt.Errorf("making socket pair: %w", err)
	}
	return socket{os.NewFile(uintptr(fds[0]), "container-init")}, os.NewFile(uintptr(fds[1]), "agent"), nil
}
