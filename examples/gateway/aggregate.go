package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// maxPart bounds what is read of a part.
const maxPart = 1 << 20

// partProblem says which part of an aggregate is missing because its service did not give it.
type partProblem struct {
	Part   string `json:"part"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

// partResult is what became of a part.
type partResult struct {
	status int
	detail string
	body   json.RawMessage
}

type aggregator struct {
	*Gateway
	Aggregate
	transports []http.RoundTripper
}

func (g *Gateway) aggregate(a Aggregate) (http.Handler, error) {
	if a.Timeout == 0 {
		a.Timeout = 2 * time.Second
	}
	ag := &aggregator{Gateway: g, Aggregate: a}
	for _, p := range a.Parts {
		t, err := g.transport(a.Upstream+" "+p.Name, g.services[p.Service], a.Timeout, a.Timeout, 2)
		if err != nil {
			return nil, err
		}
		ag.transports = append(ag.transports, t)
	}
	var names []string
	for _, p := range a.Parts {
		names = append(names, wildcards(p.Downstream)...)
	}
	if a.Auth {
		return confine(names, authenticate(g.cfg.Secret, ag)), nil
	}
	return confine(names, ag), nil
}

// ServeHTTP asks for all parts at once. The first part decides the status. Of the others one that is not there
// (404) is null, and one that failed is null too and named in "problems".
func (a *aggregator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	results := make([]partResult, len(a.Parts))
	var wg sync.WaitGroup
	for i := range a.Parts {
		wg.Go(func() { results[i] = a.fetch(r, i) })
	}
	wg.Wait()
	if first := results[0]; first.status != http.StatusOK {
		problem(w, first.status, first.detail)
		return
	}
	out := map[string]any{}
	problems := []partProblem{}
	for i, p := range a.Parts {
		switch res := results[i]; res.status {
		case http.StatusOK:
			out[p.Name] = res.body
		case http.StatusNotFound:
			out[p.Name] = nil
		default:
			out[p.Name] = nil
			problems = append(problems, partProblem{Part: p.Name, Status: res.status, Detail: res.detail})
		}
	}
	out["problems"] = problems
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // the client left
}

func (a *aggregator) fetch(r *http.Request, i int) partResult {
	p := a.Parts[i]
	in := a.services[p.Service].pick()
	ctx, cancel := context.WithTimeout(r.Context(), a.Timeout) // the transport's does not cover the body
	defer cancel()
	ctx = context.WithValue(ctx, instanceKey{}, in)
	target := in.url.JoinPath(expand(p.Downstream, wildcards(p.Downstream), r))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), http.NoBody)
	if err != nil {
		return partResult{status: http.StatusBadRequest, detail: "The path cannot be understood."}
	}
	if c := r.Header.Get(HeaderCustomer); c != "" {
		req.Header.Set(HeaderCustomer, c)
	}
	res, err := a.transports[i].RoundTrip(req)
	if err != nil {
		status, detail := explain(err)
		return partResult{status: status, detail: detail}
	}
	defer func() { _ = res.Body.Close() }()
	return readPart(res)
}

func readPart(res *http.Response) partResult {
	body, err := io.ReadAll(io.LimitReader(res.Body, maxPart+1))
	switch {
	case res.StatusCode != http.StatusOK:
		return partResult{status: res.StatusCode, detail: fmt.Sprintf("The service answered %d.", res.StatusCode)}
	case err != nil:
		status, detail := explain(err)
		return partResult{status: status, detail: detail}
	case len(body) > maxPart || !json.Valid(body):
		return partResult{status: http.StatusBadGateway, detail: "The service's answer is not JSON, or too long."}
	}
	return partResult{status: http.StatusOK, body: body}
}
