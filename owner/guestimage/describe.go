package guestimage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cofferproject/coffer/api/launch"
	apiplatform "github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/tpm/measure"
)

// measure computes the reference values of every image and memory size.
func (b *builder) measure(ctx context.Context) (*refvalue.Bundle, error) {
	code, err := os.ReadFile(b.code)
	if err != nil {
		return nil, fmt.Errorf("reading firmware: %w", err)
	}
	vars, err := os.ReadFile(b.vars)
	if err != nil {
		return nil, fmt.Errorf("reading firmware: %w", err)
	}
	fw, err := measure.OpenFirmware(code, vars)
	if err != nil {
		return nil, err
	}
	b.platform.Firmware = apiplatform.Firmware{
		Code: b.code, Vars: b.vars, SHA256: sum(code), VarsSHA256: sum(vars), Package: b.firmware.String(),
	}
	v := &refvalue.Bundle{Version: refvalue.Version, Provenance: b.provenance(code, vars)}
	for _, im := range b.variants {
		c, err := measure.NewCalculator(fw, b.files[KernelName], b.files[InitrdName(im.name)], im.cmdline)
		if err != nil {
			return nil, err
		}
		source := fmt.Sprintf("coffer guest build, revision %.12s, %s", b.revisionOrNone(), b.in.Packages.Packages[0])
		for _, mem := range launch.MemoryLadderMiB {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			s, err := c.Set(launch.TPMSim, im.name, mem, source)
			if err != nil {
				return nil, err
			}
			v.Sets = append(v.Sets, *s)
		}
	}
	return v, v.Validate()
}

func (b *builder) revisionOrNone() string {
	if b.revision == "" {
		return "unknown"
	}
	return b.revision
}

func (b *builder) provenance(code, vars []byte) refvalue.Provenance {
	p := refvalue.Provenance{
		Tool: "coffer guest build", Revision: b.revision, Compiler: b.goVersion,
		TemporaryLock: b.in.Packages.Temporary,
		Files:         map[string]string{codeName: sum(code), varsName: sum(vars)},
	}
	for name, data := range b.files {
		p.Files[name] = sum(data)
	}
	for _, k := range b.in.Packages.Packages {
		if k.Measured {
			p.Packages = append(p.Packages, refvalue.Package{Suite: k.Suite, Name: k.Name, Version: k.Version, SHA256: k.SHA256})
		}
	}
	return p
}

// stamp remembers what the output folder was built from.
type stamp struct {
	Key   string           `json:"key"`
	Files map[string]int64 `json:"files"` // name to size
}

func (b *builder) stampPath() string { return filepath.Join(b.out, ".stamp.json") }

// computeKey digests everything that the output depends on, the program that
// builds included.
func (b *builder) computeKey() error {
	h := sha256.New()
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("building guest: %w", err)
	}
	defer self.Close()
	if _, err := io.Copy(h, self); err != nil {
		return fmt.Errorf("building guest: %w", err)
	}
	e := json.NewEncoder(h)
	var names []string
	for _, v := range b.variants {
		names = append(names, v.name, sum(b.inits[v.pkg]))
	}
	for _, x := range []any{names, sum(b.inits[barePackage]), b.floor, b.revision, b.goVersion, b.in.Packages.Packages, b.in.Packages.Temporary, b.platform} {
		if err := e.Encode(x); err != nil {
			return fmt.Errorf("building guest: %w", err)
		}
	}
	b.key = hex.EncodeToString(h.Sum(nil))
	return nil
}

// unchanged reports whether the folder already holds this very build.
func (b *builder) unchanged() (*Output, bool) {
	raw, err := os.ReadFile(b.stampPath())
	if err != nil {
		return nil, false
	}
	var s stamp
	if json.Unmarshal(raw, &s) != nil || s.Key != b.key {
		return nil, false
	}
	for n, size := range s.Files {
		if fi, err := os.Stat(filepath.Join(b.out, n)); err != nil || fi.Size() != size {
			return nil, false
		}
	}
	o := &Output{Path: filepath.Join(b.out, apiplatform.FileName), Unchanged: true}
	if o.Platform, err = apiplatform.Load(o.Path); err != nil {
		return nil, false
	}
	if o.Bundle = readBundle(o.Platform.Measurements); o.Bundle == nil {
		return nil, false
	}
	return o, true
}

// write puts the build into the output folder: each file by a rename, the
// description after what it describes, the stamp last.
func (b *builder) write(v *refvalue.Bundle) error {
	b.platform.Measurements = apiplatform.MeasurementsName
	b.platform.Images = map[string]apiplatform.Image{}
	for _, im := range b.variants {
		b.platform.Images[im.name] = apiplatform.Image{
			Kernel: KernelName, VMLinux: VMLinuxName, Initrd: InitrdName(im.name), Cmdline: im.cmdline,
			KernelSHA256: sum(b.files[KernelName]), VMLinuxSHA256: sum(b.files[VMLinuxName]), InitrdSHA256: sum(b.files[InitrdName(im.name)]),
		}
	}
	if err := b.platform.Validate(); err != nil {
		return fmt.Errorf("building guest: %w", err)
	}
	var err error
	if b.files[apiplatform.MeasurementsName], err = v.Encode(); err != nil {
		return err
	}
	desc, err := json.MarshalIndent(b.platform, "", "  ")
	if err != nil {
		return fmt.Errorf("building guest: %w", err)
	}
	s := stamp{Key: b.key, Files: map[string]int64{apiplatform.FileName: int64(len(desc) + 1)}}
	for n, data := range b.files {
		if err := b.put(n, data); err != nil {
			return err
		}
		s.Files[n] = int64(len(data))
	}
	if err := b.put(apiplatform.FileName, append(desc, '\n')); err != nil {
		return err
	}
	raw, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("building guest: %w", err)
	}
	return b.put(filepath.Base(b.stampPath()), raw)
}

func (b *builder) put(name string, data []byte) error {
	dst := filepath.Join(b.out, name)
	if old, err := os.ReadFile(dst); err == nil && bytes.Equal(old, data) {
		return nil // keeps the page cache and the file's times
	}
	tmp := filepath.Join(b.tmp, name)
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("building guest: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("building guest: writing %s: %w", name, err)
	}
	if err := os.Rename(tmp, dst); err != nil {
		return fmt.Errorf("building guest: %w", err)
	}
	return nil
}

func readBundle(path string) *refvalue.Bundle {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	v, err := refvalue.Parse(raw)
	if err != nil {
		return nil // of another version: rebuilt
	}
	return v
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
