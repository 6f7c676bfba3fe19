package unpacker

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/x509roots/fallback/bundle"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/guest/keyholder/layerkey"
	"github.com/cofferproject/coffer/guest/proc"
	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/layerstream"
	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/image/ocicrypt"
	"github.com/cofferproject/coffer/image/registry"
	"github.com/cofferproject/coffer/image/unpack"
)

// Names of the processes, their argv[0].
const (
	ParserName = "coffer-unpack-parser"
	WriterName = "coffer-unpack-writer"
)

const (
	controlFD = 3
	pipeFD    = 4 // writer
)

// ParserMain is the parser process's entry point: it gives up what it has and
// does the coordinator's jobs until the control socket closes.
func ParserMain([]string) int {
	if err := proc.Confine(); err != nil {
		fmt.Fprintln(os.Stderr, ParserName+":", err)
		return 1
	}
	return parserLoop()
}

func parserLoop() int {
	c, err := unixConn(os.NewFile(controlFD, "control"))
	if err != nil {
		fmt.Fprintln(os.Stderr, ParserName+":", err)
		return 1
	}
	defer c.Close()
	p := &parser{control: c, start: time.Now()}
	for {
		var j job
		files, err := receive(c, &j)
		if errors.Is(err, io.EOF) {
			return 0
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, ParserName+":", err)
			return 1
		}
		r, err := p.do(context.Background(), &j, files)
		closeAll(files)
		if err != nil {
			r = failure(err)
		} else {
			r.Done = true
		}
		if err := send(c, r); err != nil {
			return 1
		}
	}
}

// failure turns an error into what the coordinator needs to know about it.
func failure(err error) *reply {
	r := &reply{Error: err.Error(), Causes: causesOf(err), PeerGone: errors.Is(err, syscall.EPIPE)}
	r.Denial, _ = denial.As(err)
	var mm *digest.MismatchError
	var src *registry.SourceError
	if errors.As(err, &mm) && errors.As(err, &src) {
		r.BadHost = src.Host
	}
	return r
}

type parser struct {
	control *net.UnixConn
	start   time.Time
	client  *registry.Client // of the last job, kept for its connections
	key     string           // what the client was made for
}

func (p *parser) do(ctx context.Context, j *job, files []*os.File) (*reply, error) {
	c, err := p.registry(j)
	if err != nil {
		return nil, err
	}
	switch j.Op {
	case opResolve:
		return resolve(ctx, c, j)
	case opLayer:
		return p.layer(ctx, c, j, files)
	}
	return nil, fmt.Errorf("unknown job %q", j.Op)
}

// registry gives a client for the job: the last one where only the layer changed,
// since it has open connections.
func (p *parser) registry(j *job) (*registry.Client, error) {
	key := fmt.Sprint(j.Ref.Name(), j.Config.SkipHosts, len(j.Config.Auth), j.OnlyFloor)
	if p.client != nil && p.key == key {
		return p.client, nil
	}
	cfg := j.Config
	cfg.Roots = publicRoots
	if j.Now != 0 {
		at, began := time.Unix(j.Now, 0), time.Now()
		cfg.Now = func() time.Time { return at.Add(time.Since(began)) }
		cfg.OnlyFloor = j.OnlyFloor
	}
	c, err := registry.New(cfg)
	if err != nil {
		return nil, err
	}
	p.client, p.key = c, key
	return c, nil
}

// publicRoots are Mozilla's certificate authorities as of the build; the guest
// has no certificate store on disk.
func publicRoots() *x509.CertPool {
	pool := x509.NewCertPool()
	for r := range bundle.Roots() {
		cert, err := x509.ParseCertificate(r.Certificate)
		if err != nil {
			continue
		}
		if r.Constraint != nil {
			pool.AddCertWithConstraint(cert, r.Constraint)
		} else {
			pool.AddCert(cert)
		}
	}
	return pool
}

// resolve fetches a manifest by digest and its config. The coordinator checks
// both digests again: it does not have to believe a parser there.
func resolve(ctx context.Context, c *registry.Client, j *job) (*reply, error) {
	b, ctype, err := c.Document(ctx, j.Ref)
	if err != nil {
		return nil, err
	}
	doc, err := manifest.Parse(b, ctype)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", j.Ref, err)
	}
	if doc.Manifest == nil {
		return nil, fmt.Errorf("image %s: %s is an index, expected a manifest", j.Ref, j.Ref.Digest)
	}
	cfg, err := c.Small(ctx, j.Ref, doc.Manifest.Config, "image config")
	if err != nil {
		return nil, err
	}
	return &reply{Manifest: b, Config: cfg, Tokens: c.Tokens()}, nil
}

// layer streams one layer from the registry to the writer.
func (p *parser) layer(ctx context.Context, c *registry.Client, j *job, files []*os.File) (*reply, error) {
	if j.Layer == nil || len(files) < 1 {
		return nil, errors.New("job without layer or record pipe")
	}
	diffID, err := digest.Parse(j.DiffID)
	if err != nil {
		return nil, err
	}
	lt, err := manifest.ParseLayerType(j.Layer.MediaType)
	if err != nil {
		return nil, mark(fmt.Errorf("%s: %w", j.What, err), errUnpack)
	}
	debug.SetGCPercent(unpack.GCPercent(lt.Compression))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	blob, err := c.Blob(ctx, j.Ref, *j.Layer, j.What)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	var counted atomic.Int64
	var times Times
	src := io.Reader(&timed{&counter{blob, &counted}, &times.Fetch})
	if lt.Encrypted {
		if len(files) < 2 {
			return nil, mark(fmt.Errorf("%s: is encrypted, and nothing here can unwrap its key", j.What), errKey)
		}
		// The registry answers while the key comes.
		ahead := bufio.NewReaderSize(src, 64<<10)
		asked := make(chan struct{})
		go func() {
			defer close(asked)
			_, _ = ahead.Peek(1) // an error comes again with the first Read
		}()
		began := time.Now()
		src, err = decrypt(ctx, ahead, j, files[1])
		times.Key = time.Since(began)
		if err != nil {
			cancel() // ends the peek
			<-asked
			return nil, mark(fmt.Errorf("%s: %w", j.What, err), errKey)
		}
		<-asked
		src = &timed{src, &times.Decrypt}
	}
	stop, began, fetched := p.report(&counted), time.Now(), times.Fetch
	st, err := unpack.Layer(src, j.What, diffID, layerstream.NewEncoder(files[0]), j.Limits)
	stop()
	if err != nil {
		return nil, mark(err, errUnpack)
	}
	// Each reader's time holds that of the one below it.
	fetched = times.Fetch - fetched
	if lt.Encrypted {
		times.Unpack = time.Since(began) - times.Decrypt
		times.Decrypt -= fetched
	} else {
		times.Unpack = time.Since(began) - fetched
	}
	return &reply{Bytes: st.Bytes, Entries: st.Entries, Times: &times}, nil
}

// keyTimeout bounds one layer's key: it may include the attestation.
const keyTimeout = 90 * time.Second

func decrypt(ctx context.Context, r io.Reader, j *job, keys *os.File) (io.Reader, error) {
	pub, err := ocicrypt.ParsePublicOptions(j.Layer.Annotations)
	if err != nil {
		return nil, err
	}
	conn, err := net.FileConn(keys)
	if err != nil {
		return nil, fmt.Errorf("key socket: %w", err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, keyTimeout)
	defer cancel()
	holder := layerkey.NewClient(conn)
	if err := holder.PresentManifest(ctx, j.Manifest); err != nil {
		return nil, fmt.Errorf("asking for the layer's key: %w", err)
	}
	priv, err := ocicrypt.UnwrapOptions(ctx, j.Layer.Annotations, holder)
	if err != nil {
		return nil, err
	}
	defer clear(priv.SymKey)
	return ocicrypt.NewReader(r, pub, priv)
}

type counter struct {
	r io.Reader
	n *atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// report tells the coordinator about progress now and then.
func (p *parser) report(n *atomic.Int64) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(500 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-quit:
				return
			case <-t.C:
				if send(p.control, &reply{Progress: n.Load()}) != nil {
					return
				}
			}
		}
	}()
	return func() { close(quit); <-done }
}
