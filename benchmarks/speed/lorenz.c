/* Many Lorenz systems with Tsitouras' 5(4) pair, in vectorised C.
 *
 * LANES trajectories step together; when one ends, the next trajectory takes its lane. Loops over
 * lanes contain only arithmetic, which `cc -O3 -march=native -ffast-math` vectorises.
 */
#include <math.h>
#include <stdint.h>

#define LANES 16
#define EACH_LANE for (int l = 0; l < LANES; l++)
#define UNROLLED _Pragma("GCC unroll 8")
#define EACH_COMPONENT UNROLLED for (int c = 0; c < 3; c++)

static const double A[6][6] = {
    {0.161},
    {-0.008480655492356989, 0.335480655492357},
    {2.8971530571054935, -6.359448489975075, 4.3622954328695815},
    {5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525},
    {5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401,
     -0.028269050394068383},
    {0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081,
     2.324710524099774},
};
static const double ERROR[7] = {
    -0.001780011052225777, -0.0008164344596567469, 0.007880878010261995, -0.1447110071732629,
    0.5823571654525552, -0.45808210592918697, 0.015151515151515152,
};

/* For each lane: parameters, time, next step, state, state after a step, and stage derivatives. */
typedef struct {
    double p[3][LANES], t[LANES], h[LANES], y[3][LANES], y1[3][LANES], k[7][3][LANES];
    long number[LANES];
} Lanes;

static inline void field(const double y[3], const Lanes *x, int l, double derivative[3]) {
    derivative[0] = x->p[0][l] * (y[1] - y[0]);
    derivative[1] = y[0] * (x->p[1][l] - y[2]) - y[1];
    derivative[2] = y[0] * y[1] - x->p[2][l] * y[2];
}

/* Weighted sum of the first `count` stage derivatives of component `c`. */
static inline double sum(const double *weights, int count, const Lanes *x, int c, int l) {
    double total = 0;
    UNROLLED for (int j = 0; j < count; j++) total += weights[j] * x->k[j][c][l];
    return total;
}

/* Compute stage derivative `s`; stage 6 stores its state in y1. */
static inline __attribute__((always_inline)) void stage(int s, Lanes *x, const double *h) {
    EACH_LANE {
        double y[3], derivative[3];
        EACH_COMPONENT y[c] = x->y[c][l] + h[l] * sum(A[s - 1], s, x, c, l);
        field(y, x, l, derivative);
        EACH_COMPONENT {
            x->k[s][c][l] = derivative[c];
            if (s == 6) x->y1[c][l] = y[c];
        }
    }
}

/* 0.9 q^(-1/10) within the controller's limits; the bits of q approximate its logarithm. */
static inline float factor(double q) {
    union { float value; int32_t bits; } as = {.value = (float)q};
    float power = ((float)as.bits * 0x1p-23f - 127.0f) * -0.1f, whole = floorf(power);
    float part = power - whole, most = q <= 1 ? 10.0f : 0.9f;
    as.bits = ((int32_t)whole + 127) << 23;
    float found = 0.9f * as.value * (1 + part * (0.6565f + 0.3435f * part));
    found = found < 0.2f ? 0.2f : found;
    return found > most ? most : found;
}

/* Step every lane, accept or reject by its error; return 1 if a lane has reached t1. */
static int step(Lanes *x, double t1, double rtol, double atol) {
    double h[LANES], squared[LANES];
    float change[LANES];
    int ended = 0;
    EACH_LANE h[l] = x->h[l] < t1 - x->t[l] ? x->h[l] : t1 - x->t[l];
    stage(1, x, h), stage(2, x, h), stage(3, x, h), stage(4, x, h), stage(5, x, h), stage(6, x, h);
    EACH_LANE {
        double total = 0;
        EACH_COMPONENT {
            double scale = atol + rtol * fmax(fabs(x->y[c][l]), fabs(x->y1[c][l]));
            double error = h[l] * sum(ERROR, 7, x, c, l) / scale;
            total += error * error;
        }
        squared[l] = total / 3;
    }
    EACH_LANE change[l] = factor(squared[l]);
    EACH_LANE {
        int accept = squared[l] <= 1, last = x->h[l] >= t1 - x->t[l];
        x->t[l] = accept ? (last ? t1 : x->t[l] + h[l]) : x->t[l];
        x->h[l] = h[l] * change[l];
        EACH_COMPONENT {
            x->y[c][l] = accept ? x->y1[c][l] : x->y[c][l];
            x->k[0][c][l] = accept ? x->k[6][c][l] : x->k[0][c][l];
        }
        ended |= x->t[l] >= t1;
    }
    return ended;
}

/* Load trajectory `number` into a lane; a negative number loads the first one as a placeholder. */
static void load(Lanes *x, int l, long number, const double *y0, const double *p, double h0) {
    long row = number < 0 ? 0 : number;
    double y[3], derivative[3];
    EACH_COMPONENT {
        x->y[c][l] = y[c] = y0[3 * row + c];
        x->p[c][l] = p[3 * row + c];
    }
    field(y, x, l, derivative);
    EACH_COMPONENT x->k[0][c][l] = derivative[c];
    x->t[l] = 0, x->h[l] = h0, x->number[l] = number;
}

/* Solve `n` trajectories from 0 to t1 with first step h0; return the number of attempted steps. */
long solve(long n, const double *y0, const double *p, double *ends, double t1, double rtol,
           double atol, double h0) {
    Lanes x;
    long next = 0, done = 0, steps = 0;
    EACH_LANE load(&x, l, next < n ? next++ : -1, y0, p, h0);
    while (done < n) {
        EACH_LANE steps += x.number[l] >= 0;
        if (step(&x, t1, rtol, atol)) EACH_LANE if (x.t[l] >= t1) {
            if (x.number[l] >= 0) {
                EACH_COMPONENT ends[3 * x.number[l] + c] = x.y[c][l];
                done++;
            }
            load(&x, l, next < n ? next++ : -1, y0, p, h0);
        }
    }
    return steps;
}
