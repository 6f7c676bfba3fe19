package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// volumePod writes to a volume that lasts, to one that ends with it and to a device. It
// finds out which of the guest's devices it can open. Its first life ends when somebody
// ends it.
const volumePod = `apiVersion: v1
kind: Pod
metadata: {name: keeper}
spec:
  restartPolicy: Never
  containers:
  - name: app
    image: busybox
    volumeMounts:
    - {name: data, mountPath: /data}
    - {name: scratch, mountPath: /scratch}
    volumeDevices:
    - {name: raw, devicePath: /dev/raw}
    securityContext: {capabilities: {add: [MKNOD]}}
    command:
    - sh
    - -c
    - |
      grep -q ' /data ext4 .*nosuid' /proc/mounts && grep -q ' /scratch ext4 ' /proc/mounts || exit 3
      ls -A /scratch | grep . && exit 4
      echo "plaintext-of-scratch" >/scratch/mark
      major=$(printf %d 0x$(stat -c %t /dev/raw)); opened=0
      for i in 0 1 2 3 4 5 6 7; do
        mknod /dev/try$i b $major $i
        if dd if=/dev/try$i of=/dev/null bs=4k count=1 2>/dev/null; then opened=$((opened + 1)); fi
      done
      echo "devices: $opened"
      echo "size: $(df -m /data | awk 'END {print $2}') $(dd if=/dev/raw bs=1M 2>/dev/null | wc -c)"
      echo "read: $(dd if=/dev/raw bs=1M skip=3 2>/dev/null | tr -d '\0')"
      if [ -f /data/mark ]; then
        echo "found: $(cat /data/mark), $(ls -A /data | wc -l) files"
        if cat /data/big >/dev/null; then echo "all of it"; else echo "not all of it"; fi
        if [ ! -f /data/second ]; then
          dd if=/dev/zero of=/data/more bs=1M count=45 conv=fsync 2>/dev/null && echo "room for more"
          rm /data/more
        fi
        if (echo x | dd of=/dev/raw) 2>/dev/null; then echo "writable"; else echo "read-only"; fi
        echo second >/data/second
        exit 0
      fi
      echo "plaintext-of-data" >/data/mark
      dd if=/dev/urandom of=/data/big bs=1M count=16 2>/dev/null
      echo plaintext-of-raw | dd of=/dev/raw bs=1M seek=5 conv=fsync 2>/dev/null || exit 5
      sync
      echo written
      exec sleep 1000
  volumes:
  - {name: data, persistentVolumeClaim: {claimName: data}}
  - {name: raw, persistentVolumeClaim: {claimName: raw}}
  - {name: scratch, emptyDir: {sizeLimit: 48Mi}}
`

// volume is a pod with a volume that lasts.
type volume struct {
	home, file, disk, seal string
	raw                    string // the disk of a block volume
}

const (
	volumeKey  = "default/volumes/data"
	volumeSize = 64 << 20
	rawSize    = 32 << 20
	grownSize  = 17 << 30 // beyond what one block of group descriptors describes (16 GiB)
)

// newVolume seals volumePod and makes an empty disk.
func newVolume(t *testing.T, flags ...string) *volume {
	t.Helper()
	home := shared.newHome(t)
	v := &volume{home: home, disk: filepath.Join(home, "data.disk"), raw: filepath.Join(home, "raw.disk")}
	v.file, v.seal = shared.seal(t, home, volumePod, append(volumeFlags(), flags...)...)
	v.putKey(t, "put")
	emptyDisk(t, v.disk, volumeSize)
	emptyDisk(t, v.raw, rawSize)
	return v
}

func volumeFlags() []string {
	return []string{"--volume-key", "data=kbs:///" + volumeKey, "--volume-key", "raw=kbs:///" + volumeKey, "--volume-on-disk", "scratch", "--images-on-disk", "64Mi"}
}

func emptyDisk(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

// putKey makes a key for the volume, the first ("put") or another one ("rotate").
func (v *volume) putKey(t *testing.T, how string) {
	t.Helper()
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	args := []string{"secret", how, volumeKey, "--from-file", write(t, v.home, how+".key", string(key))}
	if how == "put" {
		args = append(args, "--for", v.seal)
	}
	shared.must(t, v.home, args...)
}

func (v *volume) run(t *testing.T, flags ...string) *pod {
	t.Helper()
	if v.raw != "" {
		flags = append(flags, "--volume", "raw="+v.raw)
	}
	return shared.run(t, v.home, append([]string{"--volume", "data=" + v.disk, v.file}, flags...)...)
}

// TestVolumeThatLasts writes to a volume, kills the machine under it, and reads it
// again; then what a host may do to it in between.
func TestVolumeThatLasts(t *testing.T) {
	t.Parallel()
	v := newVolume(t, "--volume-new", "data", "--volume-new", "raw")
	p := v.run(t)
	tr := track(t, p.cmd.Process.Pid)
	p.waitOutput("written\n")

	// A second guest does not get the same disk.
	second := v.run(t)
	if code := second.wait(); code != 122 || !strings.Contains(second.stderr(), "in use by another guest") {
		t.Errorf("a second guest on the same disk: exit code %d\n%s", code, second.stderr())
	}
	noPlaintext(t, v.disk)
	noPlaintext(t, v.raw)
	contains(t, "the first life", p.stdout(), "devices: 1\nsize: ", "\nread: \n")
	files, raw := sizes(t, p.stdout())
	if files < 50 || files > 60 || raw < 25<<20 || raw > 31<<20 {
		t.Errorf("a file system of %d MiB, a device of %d bytes", files, raw)
	}
	scratch := openDisks(t, tr.pids("qemu"), "/var/tmp/")
	if len(scratch) != 2 { // the volume's, and the images'

		t.Errorf("disks without a name: %v", scratch)
	}
	for _, f := range scratch {
		noPlaintext(t, f)
	}
	killAll(t, tr, "qemu")
	p.wait()

	// Both disks grow.
	for disk, size := range map[string]int64{v.disk: grownSize, v.raw: rawSize + 8<<20} {
		if err := os.Truncate(disk, size); err != nil {
			t.Fatal(err)
		}
	}
	p = v.run(t)
	if code := p.wait(); code != 0 {
		t.Fatalf("the second life: exit code %d\n%s", code, p.stderr())
	}
	contains(t, "the second life", p.stdout(), "found: plaintext-of-data, 2 files\n", "all of it\n", "devices: 1\n", "read: plaintext-of-raw\n", "room for more\n", "writable\n")
	if f, r := sizes(t, p.stdout()); f < 15<<10 || r < raw+7<<20 {
		t.Errorf("of %d MiB and %d bytes the volumes grew to %d and %d", files, raw, f, r)
	}

	// One bit in each block of the middle, where the large file is.
	flip(t, v.disk, 16<<20, 20<<20)
	p = v.run(t)
	if code := p.wait(); code != 0 {
		t.Fatalf("with a changed file: exit code %d\n%s", code, p.stderr())
	}
	contains(t, "with a changed file", p.stdout(), "found: plaintext-of-data, 3 files\n", "not all of it\n")

	if os.Getenv("COFFER_E2E_FULL") == "1" {
		v.otherKind(t)
		v.readOnly(t)
		// A disk that has shrunk, a superblock that is gone, and one that is changed.
		if err := os.Truncate(v.disk, volumeSize); err != nil {
			t.Fatal(err)
		}
		p = v.run(t)
		if code := p.wait(); code != 123 || !strings.Contains(p.stderr(), "volume-disk-too-small") {
			t.Errorf("on a disk that has shrunk: exit code %d\n%s", code, p.stderr())
		}
		if err := os.Truncate(v.disk, grownSize); err != nil {
			t.Fatal(err)
		}
		disk, err := os.OpenFile(v.disk, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer disk.Close()
		saved := make([]byte, 4096)
		if _, err := disk.ReadAt(saved, 1<<20); err != nil {
			t.Fatal(err)
		}
		for _, change := range []func(b []byte){func(b []byte) { clear(b[:4096]) }, func(b []byte) { b[24] &^= 0x10 }} {
			b := bytes.Clone(saved)
			change(b)
			if _, err := disk.WriteAt(b, 1<<20); err != nil {
				t.Fatal(err)
			}
			p = v.run(t)
			if code := p.wait(); code != 123 || !strings.Contains(p.stderr(), "volume-damaged") {
				t.Errorf("with another superblock: exit code %d\n%s", code, p.stderr())
			}
		}
		if _, err := disk.WriteAt(saved, 1<<20); err != nil {
			t.Fatal(err)
		}
	}

	v.putKey(t, "rotate")
	p = v.run(t)
	if code := p.wait(); code != 123 || !strings.Contains(p.stderr(), "volume-key-mismatch") {
		t.Errorf("with another key: exit code %d\n%s", code, p.stderr())
	}
}

// otherKind runs the pod with a file system where it has a device.
func (v *volume) otherKind(t *testing.T) {
	t.Helper()
	o := *v
	mounted := strings.Replace(volumePod, "    volumeDevices:\n    - {name: raw, devicePath: /dev/raw}\n", "    - {name: raw, mountPath: /raw}\n", 1)
	o.file, o.seal = shared.seal(t, v.home, mounted, volumeFlags()...)
	shared.must(t, v.home, "secret", "bind", volumeKey, "--for", o.seal)
	p := o.run(t)
	if code := p.wait(); code != 123 || !strings.Contains(p.stderr(), "volume-kind-mismatch") {
		t.Errorf("a file system in the place of a device: exit code %d\n%s", code, p.stderr())
	}
}

// readOnly runs the pod with a claim that is read-only, as a user who is not root.
func (v *volume) readOnly(t *testing.T) {
	t.Helper()
	o := *v
	text := strings.NewReplacer("{claimName: raw}", "{claimName: raw, readOnly: true}", "securityContext: {", "securityContext: {runAsUser: 1000, ").Replace(volumePod)
	o.file, o.seal = shared.seal(t, v.home, text, volumeFlags()...)
	shared.must(t, v.home, "secret", "bind", volumeKey, "--for", o.seal)
	p := o.run(t)
	p.wait()
	contains(t, "a read-only device of another user", p.stdout(), "read: plaintext-of-raw\n", "read-only\n")
}

// sizes reads what the pod says of its file system (MiB) and its device (bytes).
func sizes(t *testing.T, out string) (files, device int) {
	t.Helper()
	_, rest, _ := strings.Cut(out, "size: ")
	if _, err := fmt.Sscan(rest, &files, &device); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	return files, device
}

// TestVolumeThatMustExist: a host that takes an empty disk gets no new volume.
func TestVolumeThatMustExist(t *testing.T) {
	full(t)
	t.Parallel()
	v := newVolume(t)
	p := v.run(t)
	if code := p.wait(); code != 123 || !strings.Contains(p.stderr(), "volume-disk-empty") {
		t.Errorf("an empty disk: exit code %d\n%s", code, p.stderr())
	}
	if b, err := os.ReadFile(v.disk); err != nil || !bytes.Equal(b, make([]byte, volumeSize)) {
		t.Errorf("the empty disk was written to: %v", err)
	}
	garbage := make([]byte, 4096)
	_, _ = rand.Read(garbage)
	f, err := os.OpenFile(v.disk, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(garbage, 0); err != nil {
		t.Fatal(err)
	}
	p = v.run(t)
	if code := p.wait(); code != 123 || !strings.Contains(p.stderr(), "volume-disk-foreign") {
		t.Errorf("a disk with something else: exit code %d\n%s", code, p.stderr())
	}
}

// flip changes one bit in each block of a part of a file.
func flip(t *testing.T, path string, from, to int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, to-from)
	if _, err := f.ReadAt(b, from); err != nil {
		t.Fatal(err)
	}
	for i := 1000; i < len(b); i += 4096 {
		b[i] ^= 0x10
	}
	if _, err := f.WriteAt(b, from); err != nil {
		t.Fatal(err)
	}
}

// openDisks gives /proc's names of the files that processes hold open below dir.
func openDisks(t *testing.T, pids []int, dir string) []string {
	t.Helper()
	seen := map[string]string{}
	for _, pid := range pids {
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, dir) {
				seen[to] = fd
			}
		}
	}
	var out []string
	for _, fd := range seen {
		out = append(out, fd)
	}
	return out
}

// noPlaintext fails if a disk is empty or shows what the pod wrote.
func noPlaintext(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, volumeSize))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(b, make([]byte, len(b))) {
		t.Errorf("%s: nothing was written", path)
	}
	for _, s := range []string{"plaintext-of", "lost+found"} {
		if bytes.Contains(b, []byte(s)) {
			t.Errorf("%s: shows %q", path, s)
		}
	}
}

// sealedPod keeps a count in a volume.
const sealedPod = `apiVersion: v1
kind: Pod
metadata: {name: counter}
spec:
  restartPolicy: Never
  containers:
  - name: app
    image: busybox
    volumeMounts: [{name: data, mountPath: /data}]
    command:
    - sh
    - -c
    - |
      n=$(cat /data/deep/er/count 2>/dev/null); n=$((${n:-0} + 1))
      mkdir -p /data/deep/er; echo $n >/data/deep/er/count; echo "plaintext-of-data" >/data/mark
      ln -sf ../mark /data/deep/link; chmod 0640 /data/mark; chown 12:34 /data/mark
      dd if=/dev/zero of=/data/big bs=1M count=3 2>/dev/null
      echo "count $n, $(cat /data/deep/link), $(stat -c '%a %u %g' /data/mark)"
  volumes:
  - {name: data, persistentVolumeClaim: {claimName: data}}
`

// TestSealedStorage keeps a volume of a process TEE from one life to the next, by its
// own sealing key, by the trustee's, and by both.
func TestSealedStorage(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		flags []string
		key   bool // of the trustee
		again bool // another seal of the same pod opens it too
	}{
		"mrenclave": {flags: []string{"--volume-sealing", "data=mrenclave"}},
		"trustee":   {flags: []string{"--volume-key", "data=kbs:///" + volumeKey}, key: true, again: true},
		"mrsigner":  {flags: []string{"--volume-sealing", "data=mrsigner", "--volume-key", "data=kbs:///" + volumeKey}, key: true, again: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := &volume{home: shared.newHome(t)}
			v.disk = filepath.Join(v.home, "data.store")
			flags := append([]string{"--tee", "sgx-sim", "--volume-new", "data"}, c.flags...)
			v.file, v.seal = shared.seal(t, v.home, sealedPod, flags...)
			if c.key {
				v.putKey(t, "put")
			}
			emptyDisk(t, v.disk, volumeSize)
			life := func(want string) {
				t.Helper()
				p := v.run(t, "--tee", "sgx-sim")
				if code := p.wait(); code != 0 {
					t.Fatalf("exit code %d\n%s", code, p.stderr())
				}
				contains(t, "its output", p.stdout(), want)
				noPlaintext(t, v.disk)
			}
			life("count 1, plaintext-of-data, 640 12 34\n")
			life("count 2, plaintext-of-data, 640 12 34\n")

			// The same pod with another policy: another initdata, another enclave.
			v.file, v.seal = shared.seal(t, v.home, sealedPod, append(flags, "--hide-logs")...)
			if c.key {
				shared.must(t, v.home, "secret", "bind", volumeKey, "--for", v.seal)
			}
			p := v.run(t, "--tee", "sgx-sim")
			code := p.wait()
			if !c.again && (code != 123 || !strings.Contains(p.stderr(), "volume-key-mismatch")) || c.again && code != 0 {
				t.Fatalf("another seal: exit code %d\n%s", code, p.stderr())
			}

			if !c.again {
				v.file, _ = shared.seal(t, v.home, sealedPod, flags...)
				life("count 3,")
			}
			flip(t, v.disk, 8<<10, volumeSize)
			p = v.run(t, "--tee", "sgx-sim")
			if code := p.wait(); code != 123 || !strings.Contains(p.stderr(), "volume-damaged") {
				t.Errorf("a changed store: exit code %d\n%s", code, p.stderr())
			}
		})
	}
}
