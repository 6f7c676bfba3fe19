package boot

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/podpolicy"
)

// Initdata is what the owner gave this guest, already bound to the TEE.
type Initdata struct {
	Digest   []byte             // of the plain bytes; of the fixed text if there is no device
	Plain    []byte             // nil: no device
	Document *initdata.Document // nil: no device
	Policy   *podpolicy.Policy  // nil: none in the document; then no container starts
}

// Register is the TEE's register for initdata.
type Register interface {
	// TEE is the wire name that fixes the hash algorithm ("tpm").
	TEE() string
	// BindInitdata ties the digest to the TEE's evidence, once. Without a device the
	// digest is that of the fixed text.
	BindInitdata(digest []byte, device bool) error
}

// deviceWait bounds how long the kernel may take to set up its disks.
const deviceWait = 10 * time.Second

// ReadInitdata finds, reads, hashes, binds and parses initdata, in this order.
// reg nil: this machine has no TEE, and nothing binds the digest (there are no
// secrets without evidence).
func ReadInitdata(reg Register) (*Initdata, error) {
	disks, err := virtioDisks("/sys/bus/virtio/devices", deviceWait)
	if err != nil {
		return nil, err
	}
	plain, err := readOne("/dev", disks)
	if err != nil {
		return nil, err
	}
	return bind(plain, reg)
}

// bind hashes plain (nil: no device), binds the digest, and parses only then.
func bind(plain []byte, reg Register) (*Initdata, error) {
	out := &Initdata{Plain: plain}
	tee := "tpm" // without a TEE the document is read as the simulated one's
	if reg != nil {
		tee = reg.TEE()
	}
	alg, err := initdata.AlgorithmFor(tee)
	if err != nil {
		return nil, err
	}
	if plain == nil {
		none := initdata.NoneDigest()
		out.Digest = none[:]
	} else if out.Digest, err = initdata.Digest(alg, plain); err != nil {
		return nil, err
	}
	if reg != nil {
		if err := reg.BindInitdata(out.Digest, plain != nil); err != nil {
			return nil, fmt.Errorf("binding initdata: %w", err)
		}
	}
	if plain == nil {
		return out, nil
	}
	if out.Document, err = initdata.Parse(plain); err != nil {
		return nil, err
	}
	if err := out.Document.CheckAlgorithm(tee); err != nil {
		return nil, err
	}
	policy, ok := out.Document.Data[podpolicy.DataKey]
	if !ok {
		return out, nil
	}
	if out.Policy, err = podpolicy.Parse([]byte(policy)); err != nil {
		return nil, fmt.Errorf("initdata member %s: %w", podpolicy.DataKey, err)
	}
	return out, nil
}

// virtioBlock is the virtio device id of disks.
const virtioBlock = "0x0002"

// virtioDisks names every virtio disk, after the driver has set up all of them:
// one that appeared later could be a second initdata device.
func virtioDisks(sys string, wait time.Duration) ([]string, error) {
	deadline := time.Now().Add(wait)
	for {
		disks, pending, err := listDisks(sys)
		if err != nil {
			return nil, err
		}
		if len(pending) == 0 {
			return disks, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("looking for initdata: disk %s has no driver", pending[0])
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func listDisks(sys string) (disks, pending []string, err error) {
	entries, err := os.ReadDir(sys)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("looking for initdata: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(sys, e.Name())
		id, err := os.ReadFile(filepath.Join(dir, "device"))
		if err != nil || strings.TrimSpace(string(id)) != virtioBlock {
			continue
		}
		blocks, err := os.ReadDir(filepath.Join(dir, "block"))
		if err != nil || len(blocks) == 0 {
			pending = append(pending, e.Name())
			continue
		}
		for _, b := range blocks {
			disks = append(disks, b.Name())
		}
	}
	slices.Sort(disks)
	return disks, pending, nil
}

// readOne reads the one disk that has the magic; nil if there is none.
func readOne(dev string, disks []string) ([]byte, error) {
	var plain []byte
	found := ""
	for _, d := range disks {
		b, err := readDevice(filepath.Join(dev, d))
		if errors.Is(err, initdata.ErrNoMagic) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", d, err)
		}
		if found != "" {
			return nil, fmt.Errorf("two initdata devices, %s and %s: there must be exactly one", found, d)
		}
		found, plain = d, b
	}
	return plain, nil
}

// maxDevice is the most that is read of a device: header and gzip stream.
const maxDevice = 16 + initdata.MaxCompressed

// readDevice reads a device once, from its start on.
func readDevice(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading initdata device: %w", err)
	}
	defer f.Close()
	plain, err := initdata.DecodeDevice(bufio.NewReaderSize(io.LimitReader(f, maxDevice), 64<<10))
	if err != nil {
		return nil, err
	}
	if plain == nil {
		plain = []byte{} // an empty document is not the same as no device
	}
	return plain, nil
}
