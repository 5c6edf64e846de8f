package signin

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/params"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
)

const (
	flowCookie = "lockstep-github"
	flowLasts  = 10 * time.Minute // to say yes at GitHub; GitHub's own code lasts as long
	askLimit   = 8 * time.Second  // for each of two questions to GitHub
	backLimit  = 20 * time.Second // for all of the way back
	maxUser    = 1 << 20          // bytes of what GitHub says of a user
)

// GitHub is the OAuth App that people sign in with; without an ID nobody does.
type GitHub struct {
	ClientID, ClientSecret string
	URL                    string // https://github.com, or a GitHub Enterprise Server
}

type gitHub struct {
	oauth  oauth2.Config
	user   string // where it says who somebody is
	client *http.Client
}

func newGitHub(app GitHub, publicURL string) *gitHub {
	if app.ClientID == "" {
		return nil
	}
	base := strings.TrimSuffix(app.URL, "/")
	user := base + "/api/v3/user"
	if base == "https://github.com" {
		user = "https://api.github.com/user"
	}
	return &gitHub{
		oauth: oauth2.Config{
			ClientID: app.ClientID, ClientSecret: app.ClientSecret, RedirectURL: publicURL + "/login/github/callback",
			Endpoint: oauth2.Endpoint{
				AuthURL: base + "/login/oauth/authorize", TokenURL: base + "/login/oauth/access_token", AuthStyle: oauth2.AuthStyleInParams,
			},
		},
		user: user,
		client: &http.Client{
			Timeout:       askLimit,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // secrets go nowhere else
		},
	}
}

// ToGitHub answers GET /login/github. What the callback needs is in a cookie, so that any gateway may answer it, for this browser
// only: the state, the secret of PKCE (RFC 7636) and where to go on.
func (h *Handler) ToGitHub(w http.ResponseWriter, r *http.Request) error {
	values, err := params.Read(r, "next")
	if err != nil {
		return err
	}
	if h.github == nil {
		return off()
	}
	state, verifier := rand.Text(), oauth2.GenerateVerifier()
	flow := strings.Join([]string{state, verifier, base64.RawURLEncoding.EncodeToString([]byte(local(values["next"])))}, ".")
	http.SetCookie(w, auth.Cookie(h.publicURL, flowCookie, flow, flowLasts))
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, h.github.oauth.AuthCodeURL(state, oauth2.S256ChallengeOption(verifier)), http.StatusSeeOther)
	return nil
}

// FromGitHub answers GET /login/github/callback, to which GitHub sends people back. The cookie is good for one try; GitHub's
// code is, too.
func (h *Handler) FromGitHub(w http.ResponseWriter, r *http.Request) error {
	if h.github == nil {
		return off()
	}
	ctx, cancel := context.WithTimeout(r.Context(), backLimit)
	defer cancel()
	forget := auth.Cookie(h.publicURL, flowCookie, "", 0)
	http.SetCookie(w, forget)
	var state, verifier, next string
	if cookie, err := r.Cookie(forget.Name); err == nil {
		state, verifier, next = split(cookie.Value)
	}
	query := r.URL.Query() // GitHub may add to it
	if state == "" || subtle.ConstantTimeCompare([]byte(state), []byte(query.Get("state"))) != 1 {
		h.show(w, r, "", problem.In("state", http.StatusBadRequest, "invalid_state", "this sign-in was begun elsewhere, too long ago, or has been used: begin again"))
		return nil
	}
	if query.Get("code") == "" { // he said no
		h.show(w, r, next, problem.New(http.StatusForbidden, "forbidden", "GitHub does not tell us who you are: begin again, and agree there"))
		return nil
	}
	user, err := h.github.who(ctx, query.Get("code"), verifier)
	if err != nil {
		h.show(w, r, next, err)
		return nil
	}
	cookie, err := h.guard.SignInGitHub(ctx, user)
	if err != nil {
		h.show(w, r, next, err)
		return nil
	}
	h.enter(w, r, cookie, next)
	return nil
}

func off() error {
	return problem.New(http.StatusNotFound, "not_found", "nobody signs in with GitHub here")
}

func split(flow string) (state, verifier, next string) {
	parts := strings.Split(flow, ".")
	if len(parts) != 3 {
		return "", "", ""
	}
	path, _ := base64.RawURLEncoding.DecodeString(parts[2]) // what is none is no local path either
	return parts[0], parts[1], string(path)
}

// who asks GitHub whose code this is: his number, for names change hands. GitHub's token serves this one question and is not kept.
func (g *gitHub) who(ctx context.Context, code, verifier string) (int64, error) {
	ctx = context.WithValue(ctx, oauth2.HTTPClient, g.client)
	token, err := g.oauth.Exchange(ctx, code, oauth2.VerifierOption(verifier))
	if err != nil {
		var refused *oauth2.RetrieveError
		if errors.As(err, &refused) && refused.ErrorCode != "" {
			return 0, problem.New(http.StatusForbidden, "forbidden", "GitHub takes this sign-in for used or wrong: begin again")
		}
		return 0, unavailable("exchange code", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, g.user, nil)
	if err != nil {
		return 0, unavailable("ask for user", err)
	}
	request.Header.Set("Accept", "application/vnd.github+json")
	token.SetAuthHeader(request)
	answer, err := g.client.Do(request)
	if err != nil {
		return 0, unavailable("ask for user", err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return 0, unavailable("ask for user", errors.New(answer.Status))
	}
	var user struct {
		ID int64 `json:"id"`
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxUser)).Decode(&user); err != nil || user.ID <= 0 {
		return 0, unavailable("read user", errors.New("the answer has no id"))
	}
	return user.ID, nil
}

// unavailable says what we saw, but nothing of what GitHub sent: that may be secret.
func unavailable(what string, err error) error {
	if refused := new(oauth2.RetrieveError); errors.As(err, &refused) {
		err = errors.New(refused.Response.Status)
	}
	return fmt.Errorf("%s: %w: %w", what, problem.New(http.StatusBadGateway, "github_unavailable", "GitHub does not answer as it should; try again"), err)
}
