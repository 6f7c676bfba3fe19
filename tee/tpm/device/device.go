// Package device talks to a TPM 2.0: finds the guest's device, reads and
// extends registers, binds initdata to PCR 8 (design.md section 4, rule
// initdata).
//
// Invariants: one command at a time; a response is bounded and complete or an
// error; PCR 8 is extended only if it is zero.
//
// Trust zone: guest. The device is the host's word unless evidence proves more.
package device

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/refvalue"
)

// Paths lists the devices that Open tries. The bare device first: the kernel's
// resource manager loads and saves every key around every command, which makes
// some seven commands of each, and the guest has one user of the TPM at a time.
var Paths = []string{"/dev/tpm0", "/dev/tpmrm0"}

// EventLogPath is the firmware's event log; securityfs must be mounted.
const EventLogPath = "/sys/kernel/security/tpm0/binary_bios_measurements"

// ErrNoTPM says that there is no TPM device.
var ErrNoTPM = errors.New("no TPM device")

const maxResponse = 64 << 10

// Conn is a connection to a TPM.
type Conn struct {
	mu sync.Mutex
	rw io.ReadWriteCloser
}

var _ transport.TPMCloser = (*Conn)(nil)

// Open opens the first device that is there.
func Open() (*Conn, error) {
	for _, p := range Paths {
		// Blocking, past the runtime's poller: in non-blocking mode the driver runs
		// commands in the background, and a read that comes too early says end of file.
		fd, err := unix.Open(p, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err == nil {
			return NewConn(os.NewFile(uintptr(fd), p)), nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("opening TPM: %w", err)
		}
	}
	return nil, ErrNoTPM
}

// NewConn speaks to a TPM over a device file or a stream socket.
func NewConn(rw io.ReadWriteCloser) *Conn { return &Conn{rw: rw} }

// rcRetry is the response code TPM_RC_RETRY: the command was not started and is
// to be sent again, as when a TPM tests an algorithm on its first use.
const rcRetry = 0x922

// Send runs one command.
func (c *Conn) Send(cmd []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for wait := time.Millisecond; ; wait *= 2 {
		rsp, err := c.exchange(cmd)
		if err != nil || binary.BigEndian.Uint32(rsp[6:]) != rcRetry || wait > time.Second {
			return rsp, err
		}
		time.Sleep(wait)
	}
}

// exchange sends one command and reads its response, at least the header.
func (c *Conn) exchange(cmd []byte) ([]byte, error) {
	if _, err := c.rw.Write(cmd); err != nil {
		return nil, fmt.Errorf("sending TPM command: %w", err)
	}
	// The device gives a response in one read, a socket perhaps in several.
	buf := make([]byte, 4096)
	n, err := io.ReadAtLeast(c.rw, buf, 10)
	if err != nil {
		return nil, fmt.Errorf("reading TPM response: %w", err)
	}
	size := binary.BigEndian.Uint32(buf[2:])
	switch {
	case size > maxResponse || int(size) < n:
		return nil, fmt.Errorf("reading TPM response: %d bytes announced, %d read", size, n)
	case int(size) > len(buf):
		buf = append(buf, make([]byte, int(size)-len(buf))...)
	}
	if _, err := io.ReadFull(c.rw, buf[n:size]); err != nil {
		return nil, fmt.Errorf("reading TPM response: %w", err)
	}
	return buf[:size], nil
}

// Close closes the connection.
func (c *Conn) Close() error { return c.rw.Close() }

// ReadPCRs reads registers of the SHA-256 bank.
func ReadPCRs(t transport.TPM, pcrs ...uint) (map[uint][32]byte, error) {
	out := map[uint][32]byte{}
	for len(pcrs) > 0 {
		n := min(8, len(pcrs)) // a TPM answers at most 8 at once
		rsp, err := tpm2.PCRRead{PCRSelectionIn: Selection(pcrs[:n]...)}.Execute(t)
		if err != nil {
			return nil, fmt.Errorf("reading PCRs: %w", err)
		}
		if len(rsp.PCRValues.Digests) != n {
			return nil, fmt.Errorf("reading PCRs: %d values for %d registers", len(rsp.PCRValues.Digests), n)
		}
		for i, d := range rsp.PCRValues.Digests {
			if len(d.Buffer) != 32 {
				return nil, errors.New("reading PCRs: value is not 32 bytes: no SHA-256 bank")
			}
			out[pcrs[i]] = [32]byte(d.Buffer)
		}
		pcrs = pcrs[n:]
	}
	return out, nil
}

// Selection names registers of the SHA-256 bank, in ascending order.
func Selection(pcrs ...uint) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...),
	}}}
}

// Extend extends one register of the SHA-256 bank.
func Extend(t transport.TPM, pcr uint, digest [32]byte) error {
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest[:]}}},
	}.Execute(t)
	if err != nil {
		return fmt.Errorf("extending PCR %d: %w", pcr, err)
	}
	return nil
}

// BindInitdata extends PCR 8 with the initdata digest, or with
// initdata.NoneDigest. The register must be zero: whatever else is in it, the
// trustee could not explain.
func BindInitdata(t transport.TPM, digest [32]byte) error {
	v, err := ReadPCRs(t, refvalue.PCRInitdata)
	if err != nil {
		return fmt.Errorf("binding initdata: %w", err)
	}
	if v[refvalue.PCRInitdata] != ([32]byte{}) {
		return fmt.Errorf("binding initdata: PCR %d is %x, not zero: something extended it before", refvalue.PCRInitdata, v[refvalue.PCRInitdata])
	}
	if err := Extend(t, refvalue.PCRInitdata, digest); err != nil {
		return fmt.Errorf("binding initdata: %w", err)
	}
	return nil
}

// FlushTransient removes the keys that an earlier user of the bare device left
// in the TPM, which has room for three.
func FlushTransient(t transport.TPM) error {
	rsp, err := tpm2.GetCapability{
		Capability: tpm2.TPMCapHandles, Property: uint32(tpm2.TPMHTTransient) << 24, PropertyCount: 16,
	}.Execute(t)
	if err != nil {
		return fmt.Errorf("listing TPM keys: %w", err)
	}
	list, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		return fmt.Errorf("listing TPM keys: %w", err)
	}
	for _, h := range list.Handle {
		if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(t); err != nil {
			return fmt.Errorf("flushing TPM key: %w", err)
		}
	}
	return nil
}

// ReadEventLog reads the firmware's log, at most limit bytes.
func ReadEventLog(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading event log: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading event log: %w", err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("reading event log: more than %d bytes", limit)
	}
	return b, nil
}
