package sev

import (
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/api/launch"
)

// Sizes in bytes.
const (
	digestSize = 32
	maxTable   = 0xc00 // the firmware's room
)

// ErrMeasurement says that a measurement is not that of the expected launch under this
// session: other firmware, kernel, initrd, command line, vCPUs or policy, or another
// session.
var ErrMeasurement = errors.New("the launch measurement is not that of an expected launch")

// Firmware is a version of a secure processor's.
type Firmware struct{ Major, Minor, Build uint8 }

// oldest is the first whose packets are made as here.
var oldest = Firmware{0, 17, 0}

// Expected is what a launch must be to get the secret.
type Expected struct {
	Digests [][]byte // launch digests, any of them
	// Floor is the oldest firmware of the secure processor; zero: 0.17, the oldest that
	// there is a packet for.
	Floor Firmware
}

// Packet checks a launch's measurement and makes the packet that carries the secret
// into that launch alone.
func (k *Keys) Packet(m *launch.SEVMeasurement, want *Expected, table []byte) (*launch.SEVSecret, error) {
	if k.Policy&closed != closed {
		return nil, fmt.Errorf("launch secret: the session's policy %#x lets the host read the guest: make another one", k.Policy)
	}
	if err := k.verify(m, want); err != nil {
		return nil, err
	}
	if len(table) == 0 || len(table)%KeySize != 0 || len(table) > maxTable {
		return nil, fmt.Errorf("launch secret: %d bytes, not a multiple of %d up to %d", len(table), KeySize, maxTable)
	}
	var iv [KeySize]byte
	_, _ = rand.Read(iv[:]) // never fails
	return k.packet(m, table, iv), nil
}

func (k *Keys) verify(m *launch.SEVMeasurement, want *Expected) error {
	if err := m.Check(); err != nil {
		return err
	}
	// By the host's word, which the MAC below bears out.
	has := []uint8{m.APIMajor, m.APIMinor, m.Build}
	for _, f := range []Firmware{oldest, want.Floor} {
		if slices.Compare(has, []uint8{f.Major, f.Minor, f.Build}) < 0 {
			return fmt.Errorf("sev measurement: the platform's firmware %d.%d.%d is older than %d.%d.%d: update it", m.APIMajor, m.APIMinor, m.Build, f.Major, f.Minor, f.Build)
		}
	}
	if len(want.Digests) == 0 {
		return errors.New("sev measurement: no launch digest is expected: coffer measure computes them")
	}
	for _, d := range want.Digests {
		if len(d) != digestSize {
			return fmt.Errorf("sev measurement: an expected launch digest has %d bytes, not %d", len(d), digestSize)
		}
		sum := mac(k.TIK[:], []byte{4, m.APIMajor, m.APIMinor, m.Build}, binary.LittleEndian.AppendUint32(nil, k.Policy), d, m.Nonce)
		if hmac.Equal(sum, m.Measure) {
			return nil
		}
	}
	return fmt.Errorf("sev measurement: %w", ErrMeasurement)
}

func (k *Keys) packet(m *launch.SEVMeasurement, table []byte, iv [KeySize]byte) *launch.SEVSecret {
	data := ctr(k.TEK[:], iv, table)
	flags := make([]byte, 4)
	size := binary.LittleEndian.AppendUint32(nil, uint32(len(data)))
	sum := mac(k.TIK[:], []byte{1}, flags, iv[:], size, size, data, m.Measure)
	header := append(append(flags, iv[:]...), sum...)
	return &launch.SEVSecret{Header: header, Secret: data}
}

// Entry is a value of a secret table.
type Entry struct {
	GUID  string // as guests look it up: 736869e5-84f0-4973-92ec-06879ce3da0b
	Value []byte
}

const (
	tableGUID   = "1e74f542-71dd-4d66-963e-ef4287ff173b"
	entryHeader = 16 + 4
)

// Table makes the table that a guest finds its secrets in.
func Table(entries []Entry) ([]byte, error) {
	if len(entries) == 0 {
		return nil, errors.New("launch secret: no entry")
	}
	var body []byte
	seen := map[string]bool{tableGUID: true}
	for _, e := range entries {
		guid, err := guidBytes(e.GUID)
		if err != nil {
			return nil, err
		}
		name := strings.ToLower(e.GUID)
		if seen[name] {
			return nil, fmt.Errorf("launch secret: entry %s: given twice, or the table's own", name)
		}
		seen[name] = true
		if len(e.Value) == 0 || len(e.Value) > maxTable {
			return nil, fmt.Errorf("launch secret: entry %s: %d bytes, not between 1 and %d", name, len(e.Value), maxTable)
		}
		body = append(body, guid...)
		body = binary.LittleEndian.AppendUint32(body, uint32(entryHeader+len(e.Value)))
		body = append(body, e.Value...)
	}
	out, err := guidBytes(tableGUID)
	if err != nil {
		return nil, err
	}
	out = binary.LittleEndian.AppendUint32(out, uint32(entryHeader+len(body)))
	out = append(out, body...)
	for len(out)%KeySize != 0 {
		out = append(out, 0)
	}
	if len(out) > maxTable {
		return nil, fmt.Errorf("launch secret: %d bytes with their headers, at most %d", len(out), maxTable)
	}
	return out, nil
}

// guidBytes gives a GUID as UEFI stores it: the first three numbers little-endian.
func guidBytes(s string) ([]byte, error) {
	parts := strings.Split(s, "-")
	b, err := hex.DecodeString(strings.Join(parts, ""))
	if err != nil || len(parts) != 5 || len(parts[0]) != 8 || len(parts[1]) != 4 || len(parts[2]) != 4 || len(parts[3]) != 4 || len(b) != 16 {
		return nil, fmt.Errorf("launch secret: %.60q is no GUID", s)
	}
	for _, r := range [][2]int{{0, 3}, {1, 2}, {4, 5}, {6, 7}} {
		b[r[0]], b[r[1]] = b[r[1]], b[r[0]]
	}
	return b, nil
}
