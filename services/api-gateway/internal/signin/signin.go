// Package signin is how people come in to the pages: with a token, or by way of GitHub, for a cookie. What the cookie is worth is
// decided in package auth.
package signin

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/pages"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/params"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
)

const (
	maxForm = 8 << 10 // bytes
	maxNext = 1 << 10 // bytes of where to go afterwards
)

// Handler serves the routes of signing in and out.
type Handler struct {
	guard     *auth.Guard
	pages     *pages.Pages
	publicURL string
	github    *gitHub // nil: off
	log       *zap.Logger
}

// New signs people in with guard, at publicURL.
func New(guard *auth.Guard, shown *pages.Pages, publicURL string, github GitHub, log *zap.Logger) *Handler {
	return &Handler{guard: guard, pages: shown, publicURL: publicURL, github: newGitHub(github, publicURL), log: log}
}

// Redirect sends whoever wants to see a page to the page where he signs in, and from there back.
func Redirect(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, pages.LoginPath(r), http.StatusSeeOther)
}

// Page answers GET /login.
func (h *Handler) Page(w http.ResponseWriter, r *http.Request) error {
	values, err := params.Read(r, "next")
	if err != nil {
		return err
	}
	h.show(w, r, values["next"], nil)
	return nil
}

// Token answers POST /login: the form.
func (h *Handler) Token(w http.ResponseWriter, r *http.Request) error {
	if err := h.guard.OwnPage(r); err != nil { // else another site could sign somebody in as somebody else
		return err
	}
	form, err := readForm(w, r)
	if err != nil {
		return err
	}
	cookie, err := h.guard.SignIn(r, strings.TrimSpace(form.Get("token")))
	if err != nil {
		h.show(w, r, form.Get("next"), err)
		return nil
	}
	h.enter(w, r, cookie, form.Get("next"))
	return nil
}

// Out answers POST /logout.
func (h *Handler) Out(w http.ResponseWriter, r *http.Request) error {
	if err := h.guard.OwnPage(r); err != nil {
		return err
	}
	cookie, err := h.guard.SignOut(r)
	if err != nil {
		return err
	}
	h.enter(w, r, cookie, "/login")
	return nil
}

func readForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		if wrong := problem.Of(err); wrong.Status == http.StatusRequestEntityTooLarge {
			return nil, wrong
		}
		return nil, problem.New(http.StatusBadRequest, "invalid_form", "the form cannot be read")
	}
	for name, values := range r.PostForm {
		if !slices.Contains([]string{"token", "next"}, name) || len(values) > 1 {
			return nil, problem.In(name, http.StatusBadRequest, "invalid_form", "send token and next, each once")
		}
	}
	return r.PostForm, nil
}

// enter sets a cookie and goes on.
func (h *Handler) enter(w http.ResponseWriter, r *http.Request, cookie *http.Cookie, next string) {
	http.SetCookie(w, cookie)
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, local(next), http.StatusSeeOther)
}

func (h *Handler) show(w http.ResponseWriter, r *http.Request, next string, err error) {
	h.pages.Login(w, r, pages.LoginForm{Next: local(next), GitHub: h.github != nil}, err)
}

// local is a path of ours to go to, or else the first page: whatever a browser could take for another site is not followed.
func local(next string) string {
	u, err := url.Parse(next)
	if err != nil || len(next) > maxNext || u.IsAbs() || u.Host != "" || !strings.HasPrefix(u.Path, "/") || !strings.HasPrefix(next, "/") ||
		strings.HasPrefix(u.Path, "//") || strings.ContainsFunc(next+u.Path, func(r rune) bool { return r == '\\' || unicode.IsControl(r) }) {
		return "/"
	}
	return next
}
