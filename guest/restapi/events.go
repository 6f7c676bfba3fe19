package restapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/aapb"
)

// maxEvent bounds the body of a request to record an event, far above what the
// key holder takes.
const maxEvent = 64 << 10

// event is the published body.
type event struct {
	Domain    string `json:"domain"`
	Operation string `json:"operation"`
	Content   string `json:"content"`
}

// recorder asks the key holder to record a run-time event.
type recorder interface {
	Record(ctx context.Context, e *event) (aapb.RuntimeMeasurementResult, error)
}

// newRecorder gives none without a socket.
func newRecorder(socket string) recorder {
	if socket == "" {
		return nil
	}
	return &eventHub{hub{socket: socket}}
}

type eventHub struct{ hub }

// Record implements recorder. It is not repeated on a dead connection: the event
// may have been recorded.
func (h *eventHub) Record(ctx context.Context, e *event) (aapb.RuntimeMeasurementResult, error) {
	c, err := h.connect(ctx)
	if err != nil {
		return 0, errNoAnswer
	}
	rsp, err := aapb.NewAttestationAgentServiceClient(c).ExtendRuntimeMeasurement(ctx, &aapb.ExtendRuntimeMeasurementRequest{
		Domain: e.Domain, Operation: e.Operation, Content: e.Content,
	})
	if errors.Is(err, ttrpc.ErrClosed) {
		h.drop(c)
		return 0, errNoAnswer
	}
	return rsp.GetResult(), err
}

// eventAnswer is the published answer; success is a string there.
type eventAnswer struct {
	Success string `json:"success"`
	Message string `json:"message,omitempty"`
}

func serveEvent(w http.ResponseWriter, r *http.Request, rec recorder) {
	e, err := readEvent(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	result, err := rec.Record(ctx, e)
	if err != nil {
		http.Error(w, status.Convert(err).Message(), httpCode(err))
		return
	}
	a := eventAnswer{Success: "true"}
	switch result {
	case aapb.RuntimeMeasurementResult_OK:
	case aapb.RuntimeMeasurementResult_NOT_ENABLED:
		a = eventAnswer{"false", "run-time measurement is not enabled in initdata"}
	default:
		a = eventAnswer{"false", "this TEE does not support run-time measurement"}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(a) // the workload hung up
}

func readEvent(body io.Reader) (*event, error) {
	b, err := io.ReadAll(io.LimitReader(body, maxEvent+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxEvent {
		return nil, errors.New("event: too long")
	}
	// encoding/json takes names in any case and would pass over what is not known.
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, errors.New("event: not a JSON object")
	}
	e := new(event)
	for name, to := range map[string]*string{"domain": &e.Domain, "operation": &e.Operation, "content": &e.Content} {
		raw, ok := m[name]
		if !ok || json.Unmarshal(raw, to) != nil || string(raw) == "null" {
			return nil, errors.New("event: " + name + " is missing or no string")
		}
		delete(m, name)
	}
	if len(m) > 0 {
		return nil, errors.New("event: a member other than domain, operation and content")
	}
	return e, nil
}
