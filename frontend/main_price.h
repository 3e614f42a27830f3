/* main_price.h: the prices of a plan's steps. */
#ifndef M6C_MAIN_PRICE_H
#define M6C_MAIN_PRICE_H

#include "passes/machine.h"
#include "runtime/plan.h"

/* What the step does, as unit_work says it of the unit that the step was made from. */
Work plan_work(const Plan *p, const PlanStep *s);
/* µs of step i, alone on the machine. */
double plan_step_us(const Plan *p, uint32_t i, const Machine *m);
/* FLOP/s that the machine reaches at best on products of the plan's type, that of most of their
 * flops; 0 where it does not say. */
double plan_peak(const Plan *p, const Machine *m);
/* Sets predicted_us of every step: alone on the machine. */
void plan_price(Plan *p, const Machine *m);

#endif
